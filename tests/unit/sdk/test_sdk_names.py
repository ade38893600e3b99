from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmer import names
from warmer.errors import InvalidArgument

# What a POSIX file name may be: any bytes but NUL and slash; the system shows them to Python as below.
file_names = (
    st.binary(min_size=1, max_size=20)
    .filter(lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b".."))
    .map(os.fsdecode)
)
readable_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)
paths = st.lists(file_names | readable_names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map(
    lambda parts: PurePosixPath(*parts)
)


@given(paths)
def test_image_id_escape_is_reversible(path: PurePosixPath) -> None:
    id = names.image_id_from_path(path)
    assert "/" not in id
    assert names.check_image_id(id) == id
    assert names.image_id_from_path(names.path_from_image_id(id)) == id
    assert os.fsencode(names.path_from_image_id(id)) == os.fsencode(path)


@given(paths, paths)
def test_two_paths_never_share_an_id(one: PurePosixPath, other: PurePosixPath) -> None:
    same_file = os.fsencode(one) == os.fsencode(other)
    assert (names.image_id_from_path(one) == names.image_id_from_path(other)) == same_file


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("a.jpg", "a.jpg"),
        ("dogs/at sea/a.jpg", "dogs%2Fat sea%2Fa.jpg"),
        ("50%/b.jpg", "50%25%2Fb.jpg"),
        ("%2F", "%252F"),
        ("ÅÄÖ 海.png", "ÅÄÖ 海.png"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf%E9.jpg"),
        ("./a//b", "a%2Fb"),
    ],
)
def test_documented_escapes(path: str, id: str) -> None:
    assert names.image_id_from_path(PurePosixPath(path)) == id


def test_windows_paths_give_the_same_ids() -> None:
    assert names.image_id_from_path(PureWindowsPath("a\\b.jpg")) == "a%2Fb.jpg"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.jpg", "a/../b", ".", "", "x" * 513, "\ud800.jpg"])
def test_paths_that_make_no_id(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.image_id_from_path(PurePosixPath(path))
    assert caught.value.reason == "BAD_ID"


@pytest.mark.parametrize("id", ["%", "%2", "100%", "%zz", "a%FFb%"])
def test_ids_that_were_not_made_from_paths(id: str) -> None:
    if id == "a%FFb%" or not id.endswith("%FF"):
        with pytest.raises(InvalidArgument, match="not made from a path"):
            names.path_from_image_id(id)


@pytest.mark.parametrize("id", ["a", "a b", "é" * 256, "x" * 512, "a%2Fb", "..", "日本"])
def test_good_image_ids(id: str) -> None:
    assert names.check_image_id(id) == id


@pytest.mark.parametrize("id", ["", "a/b", "/", "a\0", "x" * 513, "é" * 257, "\udcff"])
def test_bad_image_ids(id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.check_image_id(id)
    assert caught.value.reason == "BAD_ID"
    assert caught.value.hint
    str(caught.value).encode()  # a message must be printable and sendable whatever the id was


@pytest.mark.parametrize("id", ["a", "0", "a-b_c9", "x" * 63])
def test_collection_names(id: str) -> None:
    assert names.collection_name(id) == f"collections/{id}"
    assert names.collection_id(f"collections/{id}") == id


@pytest.mark.parametrize("id", ["", "-a", "_a", "A", "a b", "a/b", "x" * 64, "ä", "a\n", "a."])
def test_bad_collection_ids(id: str) -> None:
    for function in (
        names.collection_name,
        names.check_collection_id,
        lambda id: names.collection_id(f"collections/{id}"),
    ):
        with pytest.raises(InvalidArgument):
            function(id)


@pytest.mark.parametrize("id", ["a", "-", "0-9", "x" * 63])
def test_session_names(id: str) -> None:
    assert names.session_id(names.session_name(id)) == id


@pytest.mark.parametrize("id", ["", "A", "a_b", "a/b", "x" * 64, "a\n"])
def test_bad_session_ids(id: str) -> None:
    with pytest.raises(InvalidArgument):
        names.session_name(id)


def test_image_and_round_names() -> None:
    assert names.image_name("c", "a%2Fb.jpg") == "collections/c/images/a%2Fb.jpg"
    assert names.image_parts("collections/c/images/a%2Fb.jpg") == ("c", "a%2Fb.jpg")
    assert names.round_name("s", 12) == "sessions/s/rounds/12"
    assert names.round_parts("sessions/s/rounds/0") == ("s", 0)


@pytest.mark.parametrize("index", [-1, 1_000_000_000])
def test_bad_round_numbers(index: int) -> None:
    with pytest.raises(InvalidArgument):
        names.round_name("s", index)


@pytest.mark.parametrize(
    ("parse", "name"),
    [
        (names.collection_id, "collection/x"),
        (names.collection_id, "collections/x/images/y"),
        (names.collection_id, "x"),
        (names.image_parts, "collections/x"),
        (names.image_parts, "collections/x/images/y/z"),
        (names.image_parts, "collections/x/images/"),
        (names.session_id, "sessions/"),
        (names.round_parts, "sessions/s/rounds/01"),
        (names.round_parts, "sessions/s/rounds/-1"),
        (names.round_parts, "sessions/s/rounds/²"),
        (names.round_parts, "sessions/s/rounds/x"),
    ],
)
def test_wrong_names(parse: Callable[[str], object], name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(name)
    assert caught.value.reason == "BAD_ID"


def test_long_ids_are_cut_in_messages() -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.check_image_id("x" * 100_000)
    assert len(str(caught.value)) < 300


def test_relative_pure_path_of_this_system() -> None:
    assert names.path_from_image_id(names.image_id_from_path(PurePath("a") / "b.jpg")) == PurePosixPath("a/b.jpg")
