"""The reference's files: pickles of plain data are read, all others refused; indexes give back what was put in."""

import io
import pickle
import pickletools
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import faiss
import numpy as np
import pytest

from services.embedder.plain_pickle import read_plain
from services.embedder.reference_index import ReferenceIndex, find_image, read_id_map, unit
from warmer.errors import InvalidArgument

PATHS = {n: f"./playground/data/flickr30k/flickr30k_images/{n}.jpg" for n in range(5)}
PLAIN = [
    PATHS,
    {path: number for number, path in PATHS.items()},
    list(PATHS.values()),
    list(PATHS.items()),
    [[path, number] for number, path in PATHS.items()],
    tuple(PATHS.values()),
    {-1: "ü 日本", 2**40: "x", 2**80: "y", 300: "z" * 300},
    {n: f"{n}" for n in range(3000)},
    [],
    {},
    (),
    (1,),
    ("a", 2),
    ("a", 2, "c"),
    ("a", 2, "c", None),
    "text",
    7,
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("optimized", [False, True])
def test_plain_data_is_read_from_every_protocol(tmp_path: Path, protocol: int, optimized: bool) -> None:
    file = tmp_path / "ids.pkl"
    for data in PLAIN:
        pickled = pickle.dumps(data, protocol)
        file.write_bytes(pickletools.optimize(pickled) if optimized else pickled)
        assert read_plain(file) == data


def test_shared_and_circular_data(tmp_path: Path) -> None:
    text, circle = "x" * 100, []
    circle.append(circle)
    (tmp_path / "shared").write_bytes(pickle.dumps([text, [text], text]))
    (tmp_path / "circle").write_bytes(pickle.dumps(circle))
    assert read_plain(tmp_path / "shared") == [text, [text], text]
    assert isinstance(read_plain(tmp_path / "circle"), list)
    with pytest.raises(InvalidArgument) as caught:
        read_id_map(tmp_path / "circle")
    assert caught.value.reason == "BAD_ID_MAP"


class Evil:
    """Runs a program when it is read by the usual reader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return subprocess.check_call, ([sys.executable, "-c", self.command],)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_program_is_refused(tmp_path: Path, protocol: int) -> None:
    touched, file = tmp_path / "touched", tmp_path / "ids.pkl"
    for data in (Evil(f"open({str(touched)!r}, 'w')"), {0: "a", 1: Evil(f"open({str(touched)!r}, 'w')")}):
        file.write_bytes(pickle.dumps(data, protocol))
        with pytest.raises(InvalidArgument) as caught:
            read_plain(file)
        assert caught.value.reason == "UNSAFE_PICKLE"
        assert "plain data" in caught.value.message and caught.value.hint
        assert not touched.exists()
    pickle.loads(file.read_bytes())
    assert touched.exists(), "it would have run"


@pytest.mark.parametrize(
    "data",
    [
        OrderedDict(PATHS),
        np.arange(3),
        {np.int64(1): "a"},
        {0: PurePosixPath("a")},
        {0: b"bytes"},
        {"a", "b"},
        1.5,
        True,
        bytearray(b"x"),
        print,
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_is_not_plain_is_refused(tmp_path: Path, data: object) -> None:
    (tmp_path / "ids.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(InvalidArgument) as caught:
        read_plain(tmp_path / "ids.pkl")
    assert caught.value.reason == "UNSAFE_PICKLE"


BROKEN = {
    "empty": b"",
    "text": b"this is no pickle",
    "cut": pickle.dumps(PATHS)[:-20],
    "no stop": pickle.dumps(PATHS)[:-1],
    "two values": b"K\x01K\x02.",
    "nothing": b".",
    "mark": b"(.",
    "unmarked": b"l.",
    "memo that is not there": b"h\x05.",
    "append to a number": b"K\x01K\x02a.",
    "set in a list": b"]K\x01K\x02s.",
    "odd items": b"}(K\x01u.",
    "key that is a tuple": b"}(K\x01\x85K\x02u.",
    "key that is a list": b"}(]K\x02u.",
    "huge length": b"\x8d" + (2**62).to_bytes(8, "little") + b"abc.",
    "huge memo": b"K\x01r\xff\xff\xff\xff.",
    "huge bytearray": b"\x96" + (2**40).to_bytes(8, "little") + b".",
    "huge number": b"I" + b"9" * 100_000 + b"\n.",
    "lone surrogate": b"V\\ud800\n.",
    "long text": pickle.dumps("x" * 100_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles_are_refused_quickly(tmp_path: Path, name: str) -> None:
    (tmp_path / "ids.pkl").write_bytes(BROKEN[name])
    if name in ("huge memo", "lone surrogate"):
        assert read_plain(tmp_path / "ids.pkl") in (1, "\ud800"), "harmless here"
        return
    with pytest.raises(InvalidArgument) as caught:
        read_plain(tmp_path / "ids.pkl")
    assert caught.value.reason in ("BAD_PICKLE", "UNSAFE_PICKLE")


def test_random_bytes_never_do_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = bytearray(pickle.dumps(PATHS))
    for _ in range(2000):
        data = bytearray(good)
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(0, 256)
        (tmp_path / "ids.pkl").write_bytes(data)
        try:
            read_id_map(tmp_path / "ids.pkl")
        except InvalidArgument as error:
            assert error.reason in ("BAD_PICKLE", "UNSAFE_PICKLE", "BAD_ID_MAP")


def test_nested_tuples_take_no_time(tmp_path: Path) -> None:
    """Each holds the one before twice: whoever prints or hashes it is busy for ever."""
    data = b"K\x01" + b"".join(b"q\x00" + b"h\x00\x86" for _ in range(60)) + b"."
    (tmp_path / "ids.pkl").write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        read_id_map(tmp_path / "ids.pkl")
    assert caught.value.reason == "BAD_ID_MAP"
    (tmp_path / "ids.pkl").write_bytes(b"}" + data[:-1] + b"K\x01s.")
    with pytest.raises(InvalidArgument):
        read_id_map(tmp_path / "ids.pkl")


@pytest.mark.parametrize("data", PLAIN[:6])
def test_id_maps_either_way_round(tmp_path: Path, data: object) -> None:
    (tmp_path / "ids.pkl").write_bytes(pickle.dumps(data))
    assert read_id_map(tmp_path / "ids.pkl") == PATHS


@pytest.mark.parametrize(
    "data",
    ["text", 7, None, {0: 1}, {"a": "b"}, {0: ""}, [0, 1], ["a", 1], [(0, "a"), (0, "b")], {0: ["a"]}, [[0, "a", 1]]],
)
def test_what_is_no_id_map(tmp_path: Path, data: object) -> None:
    (tmp_path / "ids.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(InvalidArgument) as caught:
        read_id_map(tmp_path / "ids.pkl")
    assert caught.value.reason == "BAD_ID_MAP"


@pytest.mark.parametrize("kind", ["ip", "l2", "idmap", "idmap2"])
def test_an_index_gives_its_vectors_back(tmp_path: Path, kind: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    numbers = np.arange(50) * 3
    index = faiss.IndexFlatL2(256) if kind == "l2" else faiss.IndexFlatIP(256)
    if kind.startswith("idmap"):
        index = faiss.IndexIDMap(index) if kind == "idmap" else faiss.IndexIDMap2(index)
        index.add_with_ids(vectors, numbers)
    else:
        index.add(vectors)
        numbers = np.arange(50)
    faiss.write_index(index, str(tmp_path / "x.index"))
    read = ReferenceIndex(tmp_path / "x.index")
    assert (len(read), read.dimensions) == (50, 256)
    rows = read.rows()
    assert list(rows) == numbers.tolist()
    np.testing.assert_array_equal(list(read.vectors(rows.values())), vectors)


def test_what_is_no_index_of_vectors(tmp_path: Path) -> None:
    file = tmp_path / "x.index"
    quantised = faiss.index_factory(16, "PQ4x4")
    quantised.train(np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32))
    whole = io.BytesIO(faiss.serialize_index(faiss.IndexFlatIP(256)).tobytes()).getvalue()
    for content in (b"", b"no index", whole[:10], faiss.serialize_index(quantised).tobytes()):
        file.write_bytes(content)
        with pytest.raises(InvalidArgument) as caught:
            ReferenceIndex(file)
        assert caught.value.reason == "UNREADABLE_INDEX"


def test_files_are_found_by_the_end_of_their_path_and_only_inside(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "1.jpg").write_bytes(b"1")
    (images / "sub/1.jpg").write_bytes(b"2")
    (tmp_path / "secret").write_bytes(b"3")
    assert find_image(images, "./playground/data/images/1.jpg") == images / "1.jpg"
    assert find_image(images, "/home/me/sub/1.jpg") == images / "sub/1.jpg"
    assert find_image(images, "C:\\data\\sub\\1.jpg") == images / "sub/1.jpg"
    assert find_image(images, "1.jpg") == images / "1.jpg"
    assert find_image(images, "../images/1.jpg") == images / "1.jpg"
    for name in ("../secret", "sub/../../secret", str(tmp_path / "secret"), "..", "", ".", "sub", "2.jpg", "a\0b"):
        assert find_image(images, name) is None, name
    assert find_image(images, "\ud800") is None
    assert find_image(images, "x" * 5000) is None


def test_unit() -> None:
    np.testing.assert_allclose(unit(np.array([3, 4], np.float32)), [0.6, 0.8])
    for bad in ([0, 0], [np.nan, 1], [np.inf, 1]):
        assert unit(np.array(bad, np.float32)) is None
