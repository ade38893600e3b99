"""Both notebooks, run by a real kernel against live services, on a small dataset in the reference's layouts."""

from __future__ import annotations

import csv
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest
from hunting_kit import CAPTIONS
from running import Running

from warmer.bench.folder import HUNTS
from warmer.bench.records import Hunt, read_header, read_hunts

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LAYOUTS = {
    "flickr30k": ("flickr30k_images", ("image_name", "comment")),
    "mscoco": ("val2017", ("file_name", "caption")),
}
QUERIES = 4


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def folder_like(name: str, gallery: Path, target: Path) -> Path:
    """The gallery in the layout that the notebook expects, with a caption of an image that is not there.

    Each photo has the captions of another one: with ten of 22 displayed, no hunt would need feedback otherwise.
    """
    images, header = LAYOUTS[name]
    (target / images).mkdir(parents=True)
    for photo in gallery.iterdir():
        (target / images / photo.name).symlink_to(photo)
    with (target / "images_captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        ids = list(CAPTIONS)
        rows.writerows((id, text) for id, other in zip(ids, ids[2:] + ids[:2], strict=True) for text in CAPTIONS[other])
        rows.writerow(("gone.jpg", "a ghost"))
    return target


class Notebook:
    """A notebook that has been run. `text` is all that it said, `kinds` are the types of its outputs."""

    def __init__(self, name: str) -> None:
        self.document = read(name)
        nbclient.NotebookClient(
            self.document, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
        ).execute()
        shown = [output for cell in self.document.cells for output in cell.get("outputs", ())]
        data = [output.get("data", {}) for output in shown]
        self.kinds = [kind for item in data for kind in item]
        self.pages = [item["text/html"] for item in data if "text/html" in item]
        self.text = "\n".join(
            [output.text for output in shown if output.output_type == "stream"]
            + [item.get("text/markdown", "") for item in data]
        )


class Setting:
    """Where a notebook works: its dataset, a collection of its own, its runs."""

    def __init__(self, gallery: Path, local: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gallery, self._folder, self._monkeypatch = gallery, folder, monkeypatch
        self.collection = f"n-{uuid.uuid4().hex[:12]}"
        self.runs = folder / "runs"
        environment = {
            "WARMER_TARGET": local.targets["orchestrator"],
            "WARMER_EMBEDDER_TARGET": local.targets["embedder"],
            "WARMER_BENCH_COLLECTION": self.collection,
            "WARMER_BENCH_QUERIES": str(QUERIES),
            "WARMER_BENCH_RUNS": str(self.runs),
            "IPYTHONDIR": str(folder / "ipython"),  # a kernel writes its history there
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)

    def run(self, name: str, **settings: str) -> Notebook:
        data = folder_like(name, self._gallery, self._folder / name)
        for variable, value in {"DATASET": str(data), **settings}.items():
            self._monkeypatch.setenv(f"WARMER_BENCH_{variable}", value)
        return Notebook(name)

    def hunts(self) -> dict[Path, list[Hunt]]:
        return {file: list(read_hunts(file)) for file in sorted(self.runs.rglob(HUNTS))}


@pytest.fixture
def setting(gallery: Path, local: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    setting = Setting(gallery, local, tmp_path, monkeypatch)
    yield setting
    with local.client() as client:
        assert client.collections.get(setting.collection).image_count == len(list(gallery.iterdir()))
        client.collections.delete(setting.collection)


def check_shown(notebook: Notebook, gallery: Path) -> None:
    assert "problem: caption-without-image: 1 " in notebook.text
    assert f"{len(list(gallery.iterdir()))} photos" in notebook.text
    for title in ("### Hunts", "### Hits@10 by round", "### Recall@10 by round"):
        assert title in notebook.text
    assert notebook.kinds.count("image/png") >= 2, "a plot of Hits and one of Recall"
    assert notebook.pages and all("data:image/jpeg" in page and "Round 0" in page for page in notebook.pages)


def test_flickr30k(setting: Setting, gallery: Path) -> None:
    notebook = setting.run("flickr30k")
    check_shown(notebook, gallery)
    assert f"{QUERIES} queries played, 0 were there, 0 hunts failed" in notebook.text
    [(file, hunts)] = setting.hunts().items()
    assert Counter(hunt.arm for hunt in hunts) == dict.fromkeys(("main", "next-page", "comment-only"), QUERIES)
    assert all(hunt.user == "semantic" and not hunt.failure for hunt in hunts)
    assert any(hunt.arm == "main" and hunt.rounds[-1].relevant and hunt.rounds[-1].comment for hunt in hunts)
    assert str(file.parent / "report" / "report.html") in notebook.text
    assert "main - comment-only" in notebook.text


def test_mscoco(setting: Setting, gallery: Path) -> None:
    notebook = setting.run("mscoco", SAMPLE=".25")
    check_shown(notebook, gallery)
    assert f"{len(CAPTIONS) * 3 // 4} queries" in notebook.text, "a quarter of the captions"
    runs = setting.hunts()
    assert [read_header(file).settings["strategy"] for file in runs] == ["fused", "rewrite"]
    for file, hunts in runs.items():
        assert read_header(file).settings["protocol"] == "reference"
        assert len(hunts) == 2 * QUERIES and not any(hunt.failure for hunt in hunts)
        assert any(hunt.arm == "main" and hunt.rounds[-1].relevant for hunt in hunts)
    assert len({frozenset(hunt.query_id for hunt in hunts) for hunts in runs.values()}) == 1, "the same queries"
    assert "**fused minus rewrite**" in notebook.text


@pytest.mark.parametrize("name", LAYOUTS)
def test_committed_without_outputs(name: str) -> None:
    document = read(name)
    nbformat.validate(document)
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(LAYOUTS)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in document.cells)
