"""The guard: what it lets pass, what it rejects and why, how it cleans up, and what the plain join says."""

import pytest

from services.common.joining import MAX_JOIN_CHARS, plain_join
from services.rewriter.guard import Rejection, clean, judge
from services.rewriter.prompts import load_prompt
from services.rewriter.words import content_stems, ruled_out_stems, stem, wanted_stems

PROMPT = load_prompt("compact.v1").texts()


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a dog on grass", "a dog on grass"),
        ("  a dog   on\tgrass . ", "a dog on grass"),
        ('"a dog on grass"', "a dog on grass"),
        ("“a dog on grass.”", "a dog on grass"),
        ('"a dog on grass', "a dog on grass"),
        ("'a dog's toy'", "a dog's toy"),
        ("**a dog on grass**", "a dog on grass"),
        ("Query: a dog on grass", "a dog on grass"),
        ("New query: a dog on grass", "a dog on grass"),
        ("Sure! Here is the rewritten query: “a dog on grass”", "a dog on grass"),
        ("The new search query is: a dog on grass", "a dog on grass"),
        ('Rewrite: "Query: a dog on grass"', "a dog on grass"),
        ("- a dog on grass", "a dog on grass"),
        ("1. a dog on grass", "a dog on grass"),
        ("\n\n a dog on grass\nComment: it is black", "a dog on grass"),
        ("a dog on grass<|im_end|>", "a dog on grass"),
        ("<|im_start|>assistant", "assistant"),
        ("a dog\x00 on\u200b grass", "a dog on grass"),
        ("a search for a dog: black", "a search for a dog: black"),
        ("1 dog and 2 cats", "1 dog and 2 cats"),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


def test_clean_cuts_a_loop_where_it_begins_to_repeat():
    looping = "a black dog sits on a red mat, a black dog sits on a red mat, a black dog sits"
    assert clean(looping) == "a black dog sits on a red mat"
    assert clean("a dog on a mat and a dog on a bed") == "a dog on a mat and a dog on a bed"


def test_clean_drops_the_half_word_and_the_loose_end_of_text_that_was_cut_off():
    assert clean("a dog on the grass next to a wo", finished=False) == "a dog on the grass"
    assert clean("a dog on the grass next to a wo") == "a dog on the grass next to a wo"


ACCEPTED = [
    ("a black dog in the water with a ball", "a dog in the water", "it is black and has a ball"),
    ("two dogs playing on the beach", "dogs", "Two dogs play at the beach"),  # play / playing
    ("a woman and three children", "a woman", "with 3 kids"),  # 3 / three, kids / children
    ("a black dog, not brown", "a brown dog", "it is a black dog, not brown"),
    ("a black dog on sand", "a dog on sand", "it is a black dog, not brown"),  # what is ruled out may be left out
    ("a beach without people", "a beach", "no people in it"),
    ("a beach", "a beach", "no people in it"),  # nothing is asked for that could be dropped
    ("a man rides a bicycle up a hill", "a man on a bicycle", "I want the one where he is riding up a hill"),
    ("a dog on grass", "a dog on grass", ""),
    ("a dog on grass", "a dog on grass", "more like this one please"),  # stop words only
    ("ein Hund mit Ball im Schnee", "ein Hund im Schnee", "mit Ball"),
    ("公園の犬 黒い", "公園の犬", "黒い"),
    # Three of four content words are enough.
    ("a red kite over the sea and a child", "a kite", "A small child with a red kite"),
    # Words of a refusal, but the person's own.
    ("a sign that says I'm sorry", "a sign", "it says I'm sorry"),
]


@pytest.mark.parametrize(("raw", "query", "comment"), ACCEPTED)
def test_accepted(raw, query, comment):
    verdict = judge(raw, query=query, comment=comment, prompt_texts=PROMPT)
    assert verdict.rejection is None, verdict
    assert verdict.text == raw


REJECTED = [
    ("", "a dog", "", Rejection.EMPTY),
    (" \n\t", "a dog", "", Rejection.EMPTY),
    ("... !", "a dog", "", Rejection.EMPTY),
    ("<|im_end|>", "a dog", "", Rejection.EMPTY),
    (" ".join(f"word{i}" for i in range(61)), "a dog", "", Rejection.TOO_LONG),
    ("I'm sorry, but I can't help with that", "a dog", "", Rejection.REFUSAL),
    ("I cannot see images of a dog", "a dog", "", Rejection.REFUSAL),
    ("As an AI language model, I have no dogs", "a dog", "", Rejection.REFUSAL),
    ("My name is SmolLM and I like dogs", "a dog", "", Rejection.REFUSAL),
    ("Please provide more details about the dog", "a dog", "", Rejection.REFUSAL),
    ("Let me know if the dog is right", "a dog", "", Rejection.REFUSAL),
    ("a dog, two horses near a fence", "a dog", "", Rejection.PROMPT_LEAK),  # four words of an example
    ("a dog playing the guitar with an umbrella in a canoe", "a dog", "", Rejection.PROMPT_LEAK),  # its content words
    ("it is black", "a dog in the water", "it is black", Rejection.PROMPT_LEAK),  # the comment alone is no merge
    ("a dog in the water", "a dog in the water", "it is black", Rejection.DROPPED_COMMENT),
    ("a dog swimming", "a dog", "with a red ball", Rejection.DROPPED_COMMENT),
    ("a black dog", "a dog", "it is a black dog with a stick at night", Rejection.DROPPED_COMMENT),
    ("ein Hund", "ein Hund im Schnee", "er springt", Rejection.DROPPED_COMMENT),
]


@pytest.mark.parametrize(("raw", "query", "comment", "reason"), REJECTED)
def test_rejected(raw, query, comment, reason):
    assert judge(raw, query=query, comment=comment, prompt_texts=PROMPT).rejection is reason


def test_a_caption_said_again_is_no_merge_but_a_merge_of_it_is():
    known = {"query": "two boys rollerblading", "captions": ["a boy in blue jumps his skateboard"]}
    assert judge("a boy in blue jumps his skateboard", **known).rejection is Rejection.PROMPT_LEAK
    assert judge("two boys rollerblading, one jumps in blue", **known).rejection is None


def test_a_caption_must_not_bring_back_what_the_comment_rules_out():
    known = {"query": "two dogs on sand", "captions": ["a brown dog runs"], "comment": "they are black, not brown"}
    assert judge("two black dogs on sand, a brown dog runs", **known).rejection is Rejection.DROPPED_COMMENT
    assert judge("two black dogs running on sand, not brown", **known).rejection is None
    # The query said brown before: the model is not to blame, and the plain join would be no better.
    known["query"] = "two brown dogs on sand"
    assert judge("two brown dogs on sand which are black", **known).rejection is None


def test_words_of_the_examples_are_no_leak_when_they_are_asked_for():
    query = "two horses near a fence"
    assert judge(f"{query} in snow", query=query, comment="in snow", prompt_texts=PROMPT).rejection is None


def test_the_limit_counts_words():
    sixty = " ".join(f"word{i}" for i in range(60))
    assert judge(sixty, query="word1").rejection is None
    assert judge(sixty, query="word1", max_words=59).rejection is Rejection.TOO_LONG


@pytest.mark.parametrize(
    ("query", "captions", "comment", "joined"),
    [
        ("a dog", ["a dog runs on grass"], "it is black", "a dog, a dog runs on grass, it is black"),
        ("a dog .", ["A dog runs ."], "It is black .", "a dog, A dog runs, It is black"),
        ("a dog", [], "", "a dog"),
        ("a dog", ["", "  "], " ", "a dog"),
        ("a dog", ["A dog."], "a DOG", "a dog"),  # said already
        ("a dog, it is black", ["a dog runs"], "it is black", "a dog, it is black, a dog runs"),
        ("a dog", ["a cat", "a cat"], "", "a dog, a cat"),
        ("a hotdog", [], "a hot", "a hotdog, a hot"),  # words, not letters
        ("a dog\nIgnore all\x00", ["x\ty"], "", "a dog Ignore all, x y"),
    ],
)
def test_plain_join(query, captions, comment, joined):
    assert plain_join(query, captions, comment) == joined


def test_a_plain_join_that_is_too_long_loses_captions_first_and_never_the_comment():
    captions = [f"caption {i} " + "x" * 4000 for i in range(4)]
    joined = plain_join("a dog", captions, "it is black")
    assert len(joined) <= MAX_JOIN_CHARS
    assert joined.startswith("a dog, caption 0")
    assert joined.endswith("it is black")
    long_query = " ".join(f"word{i}" for i in range(3000))
    joined = plain_join(long_query, ["a cat"], "it is black")
    assert len(joined) <= MAX_JOIN_CHARS
    assert joined.startswith("word0 word1")
    assert joined.endswith(", it is black")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dogs", "dog"),
        ("running", "runs"),
        ("run", "ran"),
        ("riding", "rides"),
        ("jumped", "jumping"),
        ("babies", "baby"),
        ("women", "woman"),
        ("children", "kids"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("horses", "horse"),
        ("dog's", "dog"),
        ("grey", "gray"),
        ("smiling", "smiles"),
        ("wearing", "wears"),
    ],
)
def test_stems_that_are_one(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("sand", "sander"), ("grass", "gray"), ("red", "ride"), ("bus", "bush")])
def test_stems_that_differ(one, other):
    assert stem(one) != stem(other)


def test_what_a_comment_wants_and_rules_out():
    assert wanted_stems("a black dog, not brown") == {"black", "dog"}
    assert ruled_out_stems("a black dog, not brown") == {"brown"}
    assert wanted_stems("it isn't a cat but a dog") == {"dog"}
    assert ruled_out_stems("it isn't a cat but a dog") == {"cat"}
    assert ruled_out_stems("no dogs. two dogs") == set()
    assert wanted_stems("") == content_stems("the one with it") == set()
