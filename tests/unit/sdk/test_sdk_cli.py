from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import JPEG
from sdk_server import Server
from typer.testing import CliRunner, Result

from warmer.cli import app, output


class Cli:
    def __init__(self, server: Server) -> None:
        self._environment = {"WARMER_TARGET": server.target}

    def __call__(self, *arguments: str | Path, code: int = 0, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in arguments], env=self._environment, input=input)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def cli(server: Server) -> Cli:
    return Cli(server)


def test_help_teaches_and_names_the_exit_codes(cli: Cli) -> None:
    text = " ".join(cli("--help").stdout.split())
    assert "3 done, but some items failed" in text
    assert "warmer index my/photos" in text
    for command in (
        "up",
        "index",
        "caption",
        "import-reference",
        "search",
        "refine",
        "session",
        "collections",
        "models",
    ):
        assert " ".join(cli(command, "--help").stdout.split()).startswith("Usage:")


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("warmer 0.")


def test_index_makes_the_collection_and_reports_each_failure(cli: Cli, server: Server, gallery: Path) -> None:
    result = cli("index", gallery, "--collection", "g", code=3)
    assert "4 images" in result.stdout
    assert result.stdout.count("added") == 1
    assert "failed: text.jpg: NOT_AN_IMAGE: not an image" in result.stderr
    assert len(server.embedder.collections["g"]) == 3
    (gallery / "text.jpg").unlink()
    again = cli.json("index", gallery, "-c", "g")
    assert (again["added"], again["unchanged"], again["failures"], again["total"]) == (0, 3, [], 3)


def test_index_json_names_failures(cli: Cli, gallery: Path) -> None:
    report = cli.json("index", gallery, code=3)
    assert report["collection"] == "photos"
    assert report["failures"][0]["source"] == "text.jpg"
    assert report["failures"][0]["error"]["reason"] == "NOT_AN_IMAGE"


def test_index_of_an_empty_and_of_a_missing_folder(cli: Cli, tmp_path: Path) -> None:
    assert "no images in" in cli("index", tmp_path).stderr
    cli("index", tmp_path / "none", code=2)


def test_search(cli: Cli, server: Server, tmp_path: Path) -> None:
    server.embedder.collections["photos"] = {"a\tb.jpg": b"1", "c.jpg": b"2"}
    lines = cli("search", "a dog", "-k", "1").stdout.splitlines()
    assert lines == ["1\ta b.jpg\t1.0000"]
    image = tmp_path / "q.jpg"
    image.write_bytes(JPEG)
    found = cli.json("search", "--image", image, "--similar-to", "c.jpg", "--min-similarity", "0.5")
    assert [hit["image_id"] for hit in found["hits"]] == ["a\tb.jpg", "c.jpg"]
    spec = server.embedder.last_search
    assert spec is not None
    assert [term.WhichOneof("content") for term in spec.terms] == ["image", "image_id"]
    assert spec.min_similarity == 0.5


def test_search_re_ranks(cli: Cli, server: Server) -> None:
    server.embedder.collections["photos"] = {"a.jpg": b"1", "b.jpg": b"2"}
    lines = cli("search", "a dog", "--rerank", "1").stdout.splitlines()
    assert lines == ["1\ta.jpg\t1.0000\t0.5000", "2\tb.jpg\t0.9000\t"]
    assert server.embedder.last_search is not None
    assert server.embedder.last_search.rerank_count == 1
    assert [hit["match"] for hit in cli.json("search", "a dog", "--rerank", "1")["hits"]] == [0.5, None]
    cli("search", "a dog", "--rerank", "1001", code=output.EXIT_USAGE)


def test_search_without_a_query(cli: Cli) -> None:
    result = cli("search", code=1)
    assert result.stderr.splitlines()[0] == "error: the search has no query"
    assert result.stderr.splitlines()[1].startswith("hint: ")
    assert result.stdout == ""


def test_exit_codes(cli: Cli) -> None:
    cli("search", "dog", "-c", "nope", code=output.EXIT_NOT_FOUND)
    cli("search", "dog", "-k", "0", code=output.EXIT_USAGE)
    cli("nonsense", code=output.EXIT_USAGE)
    cli("collections", "create", "Bad Id", code=output.EXIT_ERROR)
    down = cli("search", "dog", "--target", "127.0.0.1:1", "--embedder", "127.0.0.1:1", "--json", code=5)
    assert down.stdout == ""
    assert "hint: Is the server running" in down.stderr


def test_collections(cli: Cli, server: Server, tmp_path: Path) -> None:
    assert cli.json("collections", "create", "c")["id"] == "c"
    assert "tiny-1 (4 dimensions" in cli("collections", "show", "c").stdout
    assert cli("collections", "list").stdout.splitlines() == ["c\t0\tready\ttiny-1\t"]
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.jpg").write_bytes(b"text")
    added = cli("collections", "add", "c", tmp_path / "a.jpg", tmp_path / "b.jpg", code=3).stdout.splitlines()
    assert sorted(added) == ["a.jpg\tadded\t", "b.jpg\tfailed\tNOT_AN_IMAGE: not an image"]
    assert [image["id"] for image in cli.json("collections", "images", "c")] == ["a.jpg"]
    cli("collections", "export-image", "c", "a.jpg", "--out", tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes() == JPEG
    cli("collections", "export-image", "c", "a.jpg", "--out", tmp_path, code=1)
    cli("collections", "export-image", "c", "nope", "--out", tmp_path / "x", code=4)
    assert cli.json("collections", "remove", "c", "a.jpg", "x.jpg", code=3)["missing_image_ids"] == ["x.jpg"]
    cli("collections", "delete", "c", code=1)
    assert "c" in server.embedder.collections
    assert cli.json("collections", "delete", "c", "--yes") == {"deleted": "c"}
    assert "c" not in server.embedder.collections


def test_two_files_of_one_name(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "a.jpg", tmp_path / "d" / "a.jpg"):
        path.write_bytes(JPEG)
    cli("collections", "add", "c", tmp_path / "a.jpg", tmp_path / "d" / "a.jpg", code=1)


def test_a_hunt(cli: Cli, server: Server) -> None:
    server.embedder.collections["photos"] = {"a.jpg": b"1", "b.jpg": b"2"}
    made = cli.json("session", "create", "--text", "a dog", "--strategy", "rewrite", "--page-size", "5")
    id = made["session"]["id"]
    assert made["session"]["round_count"] == 1
    assert [hit["image_id"] for hit in made["round"]["hits"]] == ["a.jpg", "b.jpg"]

    shown = cli("refine", id, "--relevant", "@2", "-x", "a.jpg", "--comment", "on grass", "--displayed", "@1")
    request = server.orchestrator.requests[-1]
    assert list(request.feedback.relevant_image_ids) == ["b.jpg"]
    assert list(request.feedback.irrelevant_image_ids) == ["a.jpg"]
    assert list(request.displayed_image_ids) == ["a.jpg"]
    assert shown.stdout.splitlines()[0] == "round 1: a dog, on grass"
    assert "... captions of the marked images" in shown.stderr
    assert '    b.jpg: "a dog"' in shown.stderr
    assert "query: a dog, on grass (joined: too long)" in shown.stderr
    assert "note: answered without rewrite of the query" in shown.stderr

    refined = cli("refine", id, "--json")
    assert json.loads(refined.stdout)["index"] == 2
    assert refined.stderr == ""
    assert [round["index"] for round in cli.json("session", "rounds", id)] == [0, 1, 2]
    assert "comment     on grass" in cli("session", "rounds", id).stdout
    assert "rounds        3" in cli("session", "show", id).stdout
    branched = cli.json("session", "branch", id, "1")["session"]
    assert branched["parent_round"] == [id, 1]
    assert len(cli("session", "list").stdout.splitlines()) == 2
    assert cli.json("session", "finish", id, "--found", "a.jpg")["found_image_id"] == "a.jpg"
    cli("session", "delete", id)
    cli("session", "show", id, code=4)


def test_session_in_two_steps(cli: Cli, server: Server) -> None:
    server.embedder.collections["photos"] = {"a.jpg": b"1"}
    id = cli("session", "create", "--id", "mine").stdout.strip()
    assert id == "mine"
    assert cli("session", "search", id, "a dog").stdout.splitlines()[0] == "round 0: a dog"


def test_marks_that_are_no_hits(cli: Cli, server: Server) -> None:
    server.embedder.collections["photos"] = {"a.jpg": b"1"}
    cli("session", "create", "--id", "mine", "--text", "dog")
    assert "@2 is none of the 1 hit" in cli("refine", "mine", "-r", "@2", code=1).stderr


def test_stale_etag(cli: Cli, server: Server) -> None:
    server.embedder.collections["photos"] = {"a.jpg": b"1"}
    cli("session", "create", "--id", "mine", "--text", "dog")
    assert "error: the session has changed" in cli("refine", "mine", "--etag", "old", code=1).stderr


def test_import_is_light() -> None:
    code = "import sys, warmer; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "faiss", "onnxruntime", "redis", "services", "typer", "rich", "PIL"}
