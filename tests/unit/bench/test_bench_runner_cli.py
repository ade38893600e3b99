from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from hunting_kit import CAPTIONS
from running import Running
from typer.testing import CliRunner, Result

from warmer.bench.folder import HUNTS, pictures
from warmer.cli import bench, output
from warmer.cli.app import _Group

ROOT = typer.Typer(cls=_Group)
ROOT.add_typer(bench.app, name="bench")
QUICK = ("-c", "gallery", "-s", "preference", "--shown", 3, "--queries", 3)


class Bench:
    def __init__(self, running: Running) -> None:
        names = {"WARMER_TARGET": "orchestrator", "WARMER_EMBEDDER_TARGET": "embedder"}
        self._environment = {variable: running.targets[name] for variable, name in names.items()}

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(ROOT, ["bench", *map(str, arguments)], env=self._environment)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def command(local: Running) -> Bench:
    return Bench(local)


@pytest.fixture
def folder(gallery: Path, tmp_path: Path) -> Path:
    """The gallery in the layout of the reference's Flickr30k folder, with a caption of an image that is not there."""
    data = tmp_path / "data"
    (data / "flickr30k_images").mkdir(parents=True)
    for photo in gallery.iterdir():
        (data / "flickr30k_images" / photo.name).symlink_to(photo)
    with (data / "images_captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_name", "comment"])
        rows.writerows((id, text) for id, texts in CAPTIONS.items() for text in texts)
        rows.writerow(["gone.jpg", "a ghost"])
    return data


def test_run_goes_on_and_is_reported(command: Bench, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = command("run", folder, *QUICK, "--out", out)
    assert "problem: caption-without-image: 1 " in first.stderr
    assert "3 queries played; next: warmer bench report" in first.stderr
    assert [line.split("\t")[:2] for line in first.stdout.splitlines()] == [["main", "3"], ["next-page", "3"]]
    lines = (out / HUNTS).read_text()

    again = command.json("run", folder, *QUICK, "--out", out)
    assert (again["played"], again["earlier"], again["failed"]) == (0, 3, 0)
    assert len(again["found"]["main"]) == 4
    assert again["header"]["problems"]["caption-without-image"] == 1
    assert (out / HUNTS).read_text() == lines

    refused = command("run", folder, *QUICK, "--out", out, "--marks", 2, code=1)
    assert "marks was 1, is 2" in refused.stderr and "hint: " in refused.stderr

    find = pictures([out])
    assert find is not None
    assert find("coffee.png") == folder / "flickr30k_images" / "coffee.png"
    assert find("none.png") is None


def test_report_and_compare(command: Bench, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ir_measures")
    pytest.importorskip("matplotlib")
    a, b = tmp_path / "a", tmp_path / "b"
    command("run", folder, *QUICK, "--out", a)
    command("run", folder, *QUICK, "--out", b, "--error-rate", 1)
    written = command.json("report", a)
    assert Path(written["page"]).parent == a / "report"
    assert "data:image/jpeg" in Path(written["page"]).read_text()
    compared = command("compare", a, b).stdout
    assert "error" in compared and "Hits" in compared
    assert {arm["pairs"] for arm in command.json("compare", a, b)["arms"]} == {3}
    assert "is no run" in command("compare", a, tmp_path, code=1).stderr


def test_prepare(command: Bench, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "ready"
    prepared = command("prepare", "flickr30k", folder, target, code=output.EXIT_PARTIAL)
    assert "missing: " in prepared.stdout
    assert (target / "images_captions.csv").is_file()


def test_wrong_settings_are_one_line_and_a_hint(command: Bench, folder: Path, tmp_path: Path) -> None:
    wrong = command("run", folder, "--user", "nobody", code=1).stderr.splitlines()
    assert wrong == ["error: user is 'nobody'", "hint: Use one of: visual, semantic, labels."]
    assert "is no dataset" in command("run", tmp_path, code=1).stderr
    down = command(
        "run", folder, "--target", f"unix:{tmp_path}/s", "--out", tmp_path / "r", code=output.EXIT_UNAVAILABLE
    )
    assert "hint: Is the server running" in down.stderr


def test_a_missing_package(command: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmer.bench.extra.importlib.util.find_spec", lambda name: None)
    lacking = command("run", folder, *QUICK, "--user", "semantic", "--out", tmp_path / "r", code=1)
    assert "not installed: torch, transformers, tokenizers, safetensors" in lacking.stderr
    assert "hint: pip install 'warmer[bench]'" in lacking.stderr
    with pytest.raises(bench.FailedPrecondition) as caught, bench._packages():
        import no_such_package  # noqa: F401
    assert caught.value.reason == "PACKAGE_NOT_INSTALLED"


def test_help(command: Bench) -> None:
    for name in ("run", "report", "compare", "prepare"):
        assert "Example: warmer bench" in " ".join(command(name, "--help").stdout.split())


def test_names_of_runs_and_collections() -> None:
    assert bench._id_of("Flickr30k: val/1") == "flickr30k-val-1"
    assert bench._id_of("###") == "bench"
    settings = {"strategy": "", "user": "visual", "protocol": "reference", "comment": "caption", "error_rate": 0.2}
    assert bench._run_name("c", settings) == "c-default-visual-reference-comment-errors0.2"
