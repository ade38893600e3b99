"""Words as the guard compares them: content words, lightly stemmed, and what a person has ruled out.

A small model writes "dogs" for "dog" and "runs" for "running"; a guard that compared letters would reject good
rewrites. The stemmer follows the first steps of Porter (1980) and stops there: harsher ones confuse words.
"""

import re
import unicodedata

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

# Words that carry no picture: function words, and what people say around a picture ("I want the one with ...").
_STOP_WORDS = """
    a about above across after again against all along also am among an and another any anything are around as at
    away back be because been before behind being below beside between both but by can could did do does doing
    down during each either else etc even every few for from get gets getting give go goes going had has have
    having he her here hers him his how i if image images in inside into is it its itself just kind like lot lots
    make makes many may maybe me might mine more most much must my near need next of off on one ones only onto or
    other others our out outside over own part photo photos photograph picture pictures please quite rather really
    s same see seem seems she should show shows showing shown since so some somebody someone something somewhere
    such t than that the their theirs them themselves then there these they thing things this those through to too
    toward towards under until up upon us very want wanted wants was we well were what when where which while who
    whole whom whose why will with within would yet you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_NEGATIONS = "no not never none nothing nobody nor neither without except instead cannot"
NEGATIONS = frozenset(_NEGATIONS.split())
_ENDS_CLAUSE = re.compile(r"[.,;:!?()\n]|\b(?:but|rather|just|it's|it is|they are|there is|there are)\b")

_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "kid": "child",
    "kids": "child",
    "people": "person",
    "persons": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "wolves": "wolf",
    "leaves": "leaf",
    "knives": "knife",
    "ran": "run",
    "sat": "sit",
    "stood": "stand",
    "held": "hold",
    "wore": "wear",
    "worn": "wear",
    "rode": "ride",
    "ridden": "ride",
    "threw": "throw",
    "thrown": "throw",
    "swam": "swim",
    "lay": "lie",
    "lying": "lie",
    "lies": "lie",
    "grey": "gray",
    "colour": "color",
    "coloured": "color",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
}


def words(text: str) -> list[str]:
    """The words of a text, in order: folded to lower case and to one form of each letter."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def stem(word: str) -> str:
    """A rough stem of one lower-case word: plural, possessive, `-ing` and `-ed` go."""
    word = re.sub(r"['\u2019]s?$", "", word)
    word = _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for suffix, shortest in (("ing", 6), ("ed", 5)):
        if word.endswith(suffix) and len(word) >= shortest and re.search(r"[aeiouy]", word[: -len(suffix)]):
            return _strip_end(word[: -len(suffix)])
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-2] if word.endswith(("ses", "xes", "zes", "ches", "shes")) else word[:-1]
    return _strip_end(word)


def _strip_end(stem_: str) -> str:
    """Makes "runn" and "run", "ride" and "rid" (of "riding") one stem."""
    if len(stem_) > 3 and stem_[-1] == stem_[-2] and stem_[-1] not in "aeiousz":
        return stem_[:-1]
    return stem_[:-1] if stem_.endswith("e") and len(stem_) > 3 else stem_


def content_stems(text: str) -> set[str]:
    """Stems of the words that carry a picture."""
    return {stem(word) for word in words(text) if word not in STOP_WORDS and not _negates(word)}


def wanted_stems(comment: str) -> set[str]:
    """Stems of the content words that a text asks for, less those that it rules out.

    "a black dog, not brown" wants {black, dog}: what follows a negation, up to the end of its clause, is not wanted.
    """
    return _split(comment)[0]


def ruled_out_stems(comment: str) -> set[str]:
    """Stems of the content words that a text rules out and nowhere asks for: {brown} in "a black dog, not brown"."""
    wanted, ruled_out = _split(comment)
    return ruled_out - wanted


def _split(text: str) -> tuple[set[str], set[str]]:
    wanted: set[str] = set()
    ruled_out: set[str] = set()
    for clause in _ENDS_CLAUSE.split(unicodedata.normalize("NFKC", text).casefold()):
        found = words(clause)
        at = next((i for i, word in enumerate(found) if _negates(word)), len(found))
        wanted |= content_stems(" ".join(found[:at]))
        ruled_out |= content_stems(" ".join(found[at:]))
    return wanted, ruled_out


def _negates(word: str) -> bool:
    return word in NEGATIONS or word.endswith(("n't", "n\u2019t"))
