"""The flat index against FAISS's own, its views under changes, and its snapshots when they are good, old or damaged."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from safetensors.numpy import load_file

from services.embedder.index.base import Change, Entries
from services.embedder.index.flat import FlatIndex
from services.embedder.index.following import load_index, save_index
from services.embedder.index.snapshot import Snapshot, SnapshotUnusable, Stamp, save

D = 24


def entries(numbers) -> Entries:
    numbers = list(numbers)
    vectors = np.stack([np.random.default_rng(n).normal(size=D) for n in numbers]) if numbers else np.zeros((0, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    hashes = np.stack([np.full(32, n % 251, np.uint8) for n in numbers]) if numbers else np.zeros((0, 32), np.uint8)
    return Entries(np.array(numbers, np.int64), [f"é{n:05}" for n in numbers], hashes, vectors)


def query(seed: int) -> np.ndarray:
    return np.random.default_rng(10_000_000 + seed).normal(size=D).astype(np.float32)


def found(index: FlatIndex, seed: int, k: int) -> list[str]:
    view = index.view()
    rows, _ = view.nearest(query(seed), k)
    return view.ids(rows[view.alive[rows]])


@pytest.mark.parametrize("k", [1, 10, 511, 513, 3000, 9000])
def test_same_as_faiss(k: int) -> None:
    data = entries(range(3000))
    index = FlatIndex(D, [data])
    theirs = faiss.IndexFlatIP(D)
    theirs.add(data.vectors)
    for seed in range(3):
        products, rows = theirs.search(query(seed)[None], min(k, 3000))
        got, scores = index.view().nearest(query(seed), k)
        assert got.tolist() == rows[0].tolist()
        assert scores.tolist() == products[0].tolist()
        assert index.view().similarities(query(seed))[got].tolist() == scores.tolist()


def test_products_do_not_depend_on_the_row() -> None:
    data = entries(range(2500))
    copies = np.array([3, 1023, 1024, 1025, 2047, 2498])
    data.vectors[copies] = data.vectors[3]
    view = FlatIndex(D, [data]).view()
    probes = data.vectors[:13]
    products = view.products(probes, 0, 2500)
    np.testing.assert_allclose(products, probes @ data.vectors.T, atol=1e-6)
    assert len({row.tobytes() for row in products.T[copies]}) == 1
    np.testing.assert_array_equal(view.products(probes, 2048, 2500), products[:, 2048:])


def test_changes_against_a_dictionary() -> None:
    """Random adds, removes and replacements over several compactions, compared with a plain dictionary."""
    rng = np.random.default_rng(0)
    index, model, number = FlatIndex(D), {}, 0
    old_view, old_ids = index.view(), []
    for revision in range(1, 120):
        gone = rng.choice(sorted(model), min(len(model), 150), replace=False).tolist() if model else []
        some = entries(range(number, number + 200))
        number += 200
        replaced = gone[:50]  # these ids get new vectors
        ids = [*replaced, *some.ids[len(replaced) :]]
        some = Entries(some.numbers, ids, some.hashes, some.vectors)
        index.apply(Change(revision, gone, some))
        for id in gone:
            del model[id]
        model.update(zip(ids, some.vectors, strict=True))
        if revision == 40:
            old_view, old_ids = index.view(), sorted(model)
    view = index.view()
    assert (view.count, view.revision) == (len(model), 119)
    assert view.alive.size < 3 * len(model), "dead rows are compacted"
    ids = sorted(model)
    same_view, rows = index.locate([*ids, "unknown"])
    assert same_view is view and rows[-1] == -1
    np.testing.assert_array_equal(view.vectors(rows[:-1]), np.stack([model[id] for id in ids]))
    assert sorted(view.ids(np.flatnonzero(view.alive))) == ids
    assert sorted(old_view.ids(np.flatnonzero(old_view.alive))) == old_ids, "an old view stays what it was"


def test_searching_while_the_writer_goes_on() -> None:
    index = FlatIndex(D, [entries(range(500))])
    stop, problems = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            view, rows = index.locate(["é00003"])
            got, scores = view.nearest(view.vectors(rows)[0], view.alive.size)
            if view.ids(got[:1]) != ["é00003"] or not np.isfinite(scores).all() or view.alive.sum() != view.count:
                problems.append(view.revision)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        fresh = entries(range(1000 + turn * 100, 1100 + turn * 100))
        index.apply(
            Change(turn, fresh.ids[:0] if turn % 2 else [f"é{n:05}" for n in range(turn + 4, turn + 60)], fresh)
        )
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems


class FakeState:
    """The state of a record, as plain values; the record itself is real in test_embedder_storage."""

    def __init__(self, count: int, revision: int = 5, token: int = 77) -> None:
        self.id, self.model, self.dimensions = "photos", "tiny@1", D
        self.image_count, self.revision, self.token = count, revision, token


class MemoryRecord:
    """A record in memory, that counts what is read of it."""

    def __init__(self, data: Entries) -> None:
        self.data, self.read = data, 0

    def numbers(self):
        columns = zip(self.data.numbers.tolist(), self.data.ids, self.data.hashes, strict=True)
        return {number: (id, sha.tobytes()) for number, id, sha in columns}

    def entries(self, dimensions, numbers=None):
        wanted = np.arange(len(self.data)) if numbers is None else np.searchsorted(self.data.numbers, numbers)
        self.read += len(wanted)
        yield part(self.data, wanted)


def part(data: Entries, rows) -> Entries:
    return Entries(data.numbers[rows], [data.ids[row] for row in rows], data.hashes[rows], data.vectors[rows])


def test_snapshot_round_trip(tmp_path: Path) -> None:
    data = entries(range(1, 20_001))
    save_index(tmp_path, FakeState(20_000), FlatIndex(D, [data], revision=5).view())
    record = MemoryRecord(data)
    index, behind = load_index(tmp_path, record, FakeState(20_000))
    assert (record.read, behind) == (0, 0)
    assert found(index, 1, 50) == found(FlatIndex(D, [data]), 1, 50)
    # The data file is an ordinary safetensors file.
    (file,) = tmp_path.glob("*.safetensors")
    np.testing.assert_array_equal(load_file(file)["vectors"], data.vectors)


def test_stale_snapshot_is_brought_up_to_date(tmp_path: Path) -> None:
    old = entries(range(1, 3001))
    save_index(tmp_path, FakeState(3000), FlatIndex(D, [old], revision=5).view())
    now = part(entries(range(1, 4001)), [n for n in range(4000) if n % 10])  # a tenth gone, a thousand new
    record = MemoryRecord(now)
    index, behind = load_index(tmp_path, record, FakeState(len(now), revision=9, token=78))
    assert (record.read, behind) == (900, 300 + 900)
    assert index.view().revision == 9
    assert found(index, 2, 4000) == found(FlatIndex(D, [now]), 2, 4000)


def test_snapshot_of_a_later_state_than_the_record(tmp_path: Path) -> None:
    """A backup was restored: numbers may mean other images now."""
    save_index(tmp_path, FakeState(3000, revision=50, token=1), FlatIndex(D, [entries(range(1, 3001))]).view())
    now = entries(range(1, 1001))
    changed = Entries(now.numbers, [*now.ids[:500], *(f"other{n}" for n in range(500))], now.hashes, now.vectors[::-1])
    changed.hashes[500:] = 9
    changed.vectors[:500] = now.vectors[:500]
    index, _ = load_index(tmp_path, MemoryRecord(changed), FakeState(1000, revision=40, token=2))
    view, rows = index.locate(changed.ids)
    np.testing.assert_array_equal(view.vectors(rows), changed.vectors)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def damaged(folder: Path, how: str) -> None:
    (file,) = folder.glob("*.safetensors")
    manifest = folder / "index.json"
    match how:
        case "no data":
            file.unlink()
        case "no manifest":
            manifest.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "longer":
            file.write_bytes(file.read_bytes() + b"x" * 100)
        case "empty":
            file.write_bytes(b"")
        case "manifest cut":
            manifest.write_text(manifest.read_text()[:50])
        case "manifest lies about rows":
            text = json.loads(manifest.read_text())
            text["stamp"]["rows"] = 10**12
            manifest.write_text(json.dumps(text))
        case "manifest of the future":
            text = json.loads(manifest.read_text())
            manifest.write_text(json.dumps({**text, "format": 99}))
        case "another model":
            text = json.loads(manifest.read_text())
            text["stamp"]["model"] = "tiny@2"
            manifest.write_text(json.dumps(text))
        case _:
            flip(file, {"header": 20, "ids": 130_000, "vectors": -5}[how])


HOWS = ["no data", "no manifest", "cut", "longer", "empty", "manifest cut", "manifest lies about rows"]
HOWS += ["manifest of the future", "another model", "header", "ids", "vectors"]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_snapshot_is_not_used(tmp_path: Path, how: str) -> None:
    data = entries(range(1, 3001))
    save_index(tmp_path, FakeState(3000), FlatIndex(D, [data], revision=5).view())
    damaged(tmp_path, how)
    record = MemoryRecord(data)
    index, behind = load_index(tmp_path, record, FakeState(3000))
    assert (record.read, behind) == (3000, 3000)
    assert found(index, 3, 50) == found(FlatIndex(D, [data]), 3, 50)


def test_saving_keeps_the_older_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    stamp = Stamp("photos", "tiny@1", D, 5, 77, 100)
    save(tmp_path, stamp, entries(range(100)))
    (tmp_path / "torn.safetensors.tmp").write_bytes(b"half of it")
    assert Snapshot(tmp_path).stamp == stamp
    save(tmp_path, replace(stamp, revision=6, rows=50), entries(range(50)))
    assert sum(len(chunk) for chunk in Snapshot(tmp_path).chunks()) == 50
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(SnapshotUnusable):
        Snapshot(tmp_path / "nowhere")
