"""The watch over a batch that generates, on a real tokenizer with the steps of `generate` written out."""

import pytest
import torch
from tiny.llava_next import tokenizer

from services.common.generation import BatchWatch, Generated, end_ids, first_line, pad_id


@pytest.fixture(scope="module")
def words():
    return tokenizer()


class Run:
    """Feeds rows of new tokens to a watch, one more token at each step, as `generate` does."""

    def __init__(self, words, rows, *, one_line=True, stop_after=None):
        self.words = words
        self.pieces = {index: [] for index in range(len(rows))}
        self.steps = []
        stop_after = stop_after or {}
        most = max(map(len, rows))
        padded = [[*row, *[words.pad_token_id] * (most - len(row))] for row in rows]
        # The prompts: of unlike length, padded on the left.
        prompts = torch.tensor(
            [[words.pad_token_id] * (index % 3) + [1] * (3 - index % 3) for index in range(len(rows))]
        )
        tokens = torch.cat([prompts, torch.tensor(padded)], dim=1)
        watch = BatchWatch(
            words,
            3,
            lambda index, piece: self.pieces[index].append(piece),
            lambda index: len(self.steps) + 1 >= stop_after.get(index, 1_000),
            one_line=one_line,
        )
        end = 3
        for end in range(4, tokens.shape[1] + 1):
            done = watch(tokens[:, :end], None)
            assert (done.dtype, done.shape) == (torch.bool, (len(rows),))
            self.steps.append(done.tolist())
            if done.all():
                break
        self.results = watch.results(tokens[:, :end], most)


def ids(words, text, end=False):
    return words(text, add_special_tokens=False).input_ids + ([words.eos_token_id] if end else [])


def test_each_row_has_its_own_end_and_padding_is_no_text(words):
    short, long = ids(words, "a black dog", end=True), ids(words, "the cat sleeps on a wooden chair", end=True)
    run = Run(words, [short, long])
    assert run.results == [
        Generated("a black dog", len(short), True),
        Generated("the cat sleeps on a wooden chair", len(long), True),
    ]
    assert [step[0] for step in run.steps] == [n >= len(short) for n in range(1, len(long) + 1)]
    assert run.steps[-1] == [True, True]


def test_pieces_come_as_they_are_written_and_make_the_text(words):
    run = Run(words, [ids(words, "two children play", end=True), ids(words, "a red ball", end=True)])
    assert ["".join(pieces) for pieces in run.pieces.values()] == ["two children play", "a red ball"]
    assert all(len(pieces) > 1 for pieces in run.pieces.values())


def test_half_a_character_waits_for_the_rest(words):
    run = Run(words, [ids(words, "caf\u00e9 \U0001f415!", end=True)])
    assert "".join(run.pieces[0]) == "caf\u00e9 \U0001f415!"
    assert all("\ufffd" not in piece for piece in run.pieces[0])


def test_half_a_character_at_the_end_is_passed_on(words):
    half = ids(words, "\U0001f415")[:-1]
    run = Run(words, [half])
    assert "".join(run.pieces[0]) == run.results[0].text
    assert "\ufffd" in run.results[0].text
    assert not run.results[0].finished


@pytest.mark.parametrize("blank", ["", "\n", "\r\n\n", "  \n \n"])
def test_a_line_break_ends_a_row_and_blank_lines_before_it_are_no_text(words, blank):
    row = ids(words, f"{blank}a dog\nand a cat", end=True)
    other = ids(words, "a man rides a bicycle down the street beside the lake", end=True)
    run = Run(words, [row, other])
    assert run.results[0].text.strip() == "a dog"
    assert run.results[0].finished
    assert run.results[0].tokens < len(row)
    assert "".join(run.pieces[0]) == run.results[0].text
    assert run.results[1].text == "a man rides a bicycle down the street beside the lake"


def test_more_lines_where_more_are_wanted(words):
    run = Run(words, [ids(words, "a dog\nand a cat", end=True)], one_line=False)
    assert run.results[0].text == "".join(run.pieces[0]) == "a dog\nand a cat"


def test_the_limit_of_tokens_is_no_end(words):
    row = ids(words, "a black dog and a white")
    assert Run(words, [row]).results == [Generated("a black dog and a white", len(row), False)]


def test_a_row_that_nobody_waits_for_stops_alone(words):
    row = ids(words, "the cat sleeps on a wooden chair", end=True)
    run = Run(words, [row, row], stop_after={0: 3})
    stopped, whole = run.results
    assert (stopped.tokens, stopped.finished) == (3, False)
    assert whole == Generated("the cat sleeps on a wooden chair", len(row), True)


def test_a_batch_that_nobody_waits_for_stops(words):
    row = ids(words, "the cat sleeps on a wooden chair", end=True)
    run = Run(words, [row, row], stop_after={0: 2, 1: 4})
    assert len(run.steps) == 4


def test_a_row_without_a_word(words):
    run = Run(words, [[words.eos_token_id], ids(words, "a dog", end=True)])
    assert run.results[0] == Generated("", 1, True)
    assert run.pieces[0] == []


@pytest.mark.parametrize(
    ("text", "line", "complete"),
    [
        ("", "", False),
        ("\n\n", "", False),
        ("a dog", "a dog", False),
        (" a dog \n", " a dog ", True),
        ("\n  \n a\r\nb", " a", True),
        ("  ", "  ", False),
    ],
)
def test_first_line(text, line, complete):
    assert first_line(text) == (line, complete)


class Model:
    """The part of a model that tells its ends."""

    def __init__(self, eos):
        self.generation_config = type("Config", (), {"eos_token_id": eos})


@pytest.mark.parametrize(("eos", "ends"), [(None, {2}), (7, {2, 7}), ([7, 9], {2, 7, 9})])
def test_end_ids(words, eos, ends):
    assert end_ids(Model(eos), words) == ends


def test_pad_id(words):
    bare = tokenizer()
    bare.pad_token = None
    assert pad_id(words, {2}) == words.pad_token_id
    assert pad_id(bare, {9, 2}) == 2
    assert pad_id(bare, ()) == 0
