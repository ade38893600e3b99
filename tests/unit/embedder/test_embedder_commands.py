"""reembed, caption and import-reference from the command line, against embedders in processes of their own."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import grpc
import numpy as np
import pytest
from embedder_kit import picture
from tiny_encoder import TinyEncoder
from typer.testing import CliRunner, Result

from warmer import Client
from warmer._captioning import caption, captioner
from warmer._reembed import reembed
from warmer.cli import app
from warmer.cli.stack import is_serving
from warmer.errors import Aborted, InvalidArgument, ResourceExhausted, to_status
from warmer.types import NewImage
from warmer.v1 import captioner_pb2, captioner_pb2_grpc, common_pb2

PROGRAM = Path(__file__).with_name("embedder_process.py")
COLOURS = ("red", "green", "blue", "yellow")
CONTENTS = {f"{colour}-{n:02}": picture(colour, n) for colour in COLOURS for n in range(12)}


@contextmanager
def embedder(folder: Path, data: str, socket: str, *which: str) -> Iterator[Client]:
    """An embedder process, and a client of it."""
    target = f"unix:{folder}/{socket}"
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[3]), "WARMER_LOG_LEVEL": "warning"}
    arguments = [sys.executable, str(PROGRAM), str(folder / data), str(folder / socket), *which]
    with subprocess.Popen(arguments, env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            while not is_serving(target):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            with Client(target) as client:
                yield client
        finally:
            process.terminate()
            process.wait(30)


def fill(client: Client) -> None:
    client.collections.create("photos")
    results = client.collections.add_images("photos", [NewImage(id, content) for id, content in CONTENTS.items()])
    assert {result.outcome for result in results} == {"added"}


class Cli:
    """The command line, talking to one socket."""

    def __init__(self, target: str) -> None:
        self._environment = {"WARMER_TARGET": target, "WARMER_EMBEDDER_TARGET": target}

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in arguments], env=self._environment)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def cli(folder: Path) -> Cli:
    return Cli(f"unix:{folder}/s")


# reembed


def test_reembed_on_the_server_with_the_new_model(folder: Path, cli: Cli) -> None:
    with embedder(folder, "data", "s") as client:
        fill(client)
        before = client.search("photos", "red", top_k=100).hits
        assert "0 images embedded" in cli("collections", "reembed", "photos").stdout, "it has this model's vectors"
    with embedder(folder, "data", "s", "turned") as client:
        result = cli("collections", "reembed", "photos")
        assert "48 images embedded" in result.stdout
        assert "photos is searched with turned@1 now" in result.stderr
        after = client.search("photos", "red", top_k=100).hits
        assert {h.image_id: round(h.score, 3) for h in after} == {h.image_id: round(h.score, 3) for h in before}
        assert "tiny@1 for 48 of 48 images" in cli("collections", "show", "photos").stdout
        assert cli.json("collections", "reembed", "photos", "--forget", "tiny@1")["forgotten"] == "tiny@1"
        assert client.collections.get("photos").vector_sets == ()
        cli("collections", "reembed", "photos", "--forget", "tiny@1", code=4)
        cli("collections", "reembed", "nowhere", code=4)


def test_reembed_with_another_embedder(folder: Path, cli: Cli) -> None:
    with embedder(folder, "data", "s") as client, embedder(folder, "other", "o", "turned"):
        fill(client)
        result = cli("collections", "reembed", "photos", "--with", f"unix:{folder}/o")
        assert "restart the embedder, which runs tiny@1, with turned@1" in result.stderr
        assert client.collections.get("photos").model == "tiny@1"
        assert client.search("photos", "red").hits
        list(client.collections.add_images("photos", [NewImage("late", picture("red", 77))]))
        report = cli.json("collections", "reembed", "photos", "--with", f"unix:{folder}/o")
        assert (report["stored"], report["missing"], report["adopted"]) == (1, 0, False)
        assert (report["model"], report["server_model"], report["failures"]) == ("turned@1", "tiny@1", [])
    with embedder(folder, "data", "s", "turned") as client:
        assert client.collections.get("photos").state == "ready"
        assert len(client.search("photos", "red", top_k=100).hits) == 49


def test_reembed_names_what_cannot_be_embedded(folder: Path, cli: Cli) -> None:
    with embedder(folder, "data", "s") as client:
        fill(client)
        sha256 = client.collections.image("photos", "red-03").sha256
    stored = folder / "data/tenants/default/collections/photos/objects" / sha256[:2] / sha256[2:]
    stored.write_bytes(b"damaged")
    with embedder(folder, "data", "s", "turned") as client:
        result = cli("collections", "reembed", "photos", code=3)
        assert "47 images embedded" in result.stdout
        assert "failed: red-03: CONTENT_DAMAGED" in result.stderr
        assert "not complete" in result.stderr and "1 image" in result.stderr
        assert client.collections.get("photos").state == "model_mismatch"
        assert cli.json("collections", "reembed", "photos", code=3)["stored"] == 0
        client.collections.remove("photos", "red-03")
        assert client.collections.get("photos").state == "ready"


def test_reembed_goes_on_where_it_was_stopped(folder: Path, cli: Cli) -> None:
    with embedder(folder, "data", "s") as client:
        fill(client)
    with embedder(folder, "data", "s", "turned") as client:
        seen = []

        def stop(done: int, total: int) -> None:
            seen.append((done, total))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Client(client.targets.embedder) as interrupted:
            reembed(interrupted, "photos", embedder=interrupted, progress=stop)
        assert seen == [(16, 48)]
        left = len(list(client.collections.images("photos", without_vectors_of="turned@1")))
        assert 0 <= left <= 32
        time.sleep(1)
        left = len(list(client.collections.images("photos", without_vectors_of="turned@1")))
        assert cli.json("collections", "reembed", "photos")["stored"] == left
        assert client.collections.get("photos").state == "ready"


# caption


class Captioner(captioner_pb2_grpc.CaptionerServiceServicer):
    """Says how many bytes it was handed; can be told to fail."""

    def __init__(self) -> None:
        self.model = "bytes@1"
        self.changes_to = ""  # another model, as soon as somebody has asked which one it runs
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.full = 0

    def GetModel(self, request: Any, context: Any) -> common_pb2.Model:
        told, self.model = self.model, self.changes_to or self.model
        return common_pb2.Model(id=told, backend="test", prompt_version="p1")

    def Caption(self, request: Any, context: Any) -> Iterator[captioner_pb2.CaptionResponse]:
        for item in request.items:
            self.asked.append(item.key)
            written = captioner_pb2.Caption(key=item.key, model=self.model, prompt_version="p1")
            if item.key in self.broken:
                written.status.CopyFrom(to_status(InvalidArgument("damaged", reason="DAMAGED_IMAGE")))
            elif self.full:
                self.full -= 1
                error = ResourceExhausted("full", reason="QUEUE_FULL", retry_after_s=0.05)
                written.status.CopyFrom(to_status(error))
            else:
                written.text, written.tokens = f"a picture of {len(item.image)} bytes", 5
                delta = captioner_pb2.CaptionDelta(key=item.key, text="a picture")
                yield captioner_pb2.CaptionResponse(text_delta=delta)
            yield captioner_pb2.CaptionResponse(caption=written)


@pytest.fixture
def bytes_captioner(folder: Path) -> Iterator[Captioner]:
    server, servicer = grpc.server(ThreadPoolExecutor(4)), Captioner()
    captioner_pb2_grpc.add_CaptionerServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{folder}/c")
    server.start()
    yield servicer
    server.stop(None).wait()


@pytest.fixture
def photos(folder: Path) -> Iterator[Client]:
    with embedder(folder, "data", "s") as client:
        fill(client)
        yield client


@pytest.fixture
def run_caption(folder: Path, cli: Cli) -> Callable[..., Any]:
    return lambda *options, code=0: cli.json(
        "caption", "photos", "--captioner", f"unix:{folder}/c", *options, code=code
    )


def test_caption_captions_all_once(photos: Client, bytes_captioner: Captioner, run_caption: Callable[..., Any]) -> None:
    list(photos.collections.add_images("photos", [NewImage("red-00-twin", CONTENTS["red-00"])]))
    report = run_caption("--limit", "20")
    assert (report["stored"], report["missing"], report["failures"]) == (20, 29, [])
    report = run_caption()
    assert (report["stored"], report["missing"], report["model"], report["prompt_version"]) == (29, 0, "bytes@1", "p1")
    assert len(bytes_captioner.asked) == 48, "a content is captioned once"
    kept = photos.collections.captions("photos", [*CONTENTS, "red-00-twin"], model="bytes@1", prompt_version="p1")
    assert len(kept) == 49 and all(k.text.startswith("a picture of") and k.tokens == 5 for k in kept)
    assert run_caption()["stored"] == 0
    bytes_captioner.model = "bytes@2"
    assert run_caption()["stored"] == 49


def test_caption_names_failures_and_waits_for_a_full_queue(
    photos: Client, bytes_captioner: Captioner, run_caption: Callable[..., Any], cli: Cli, folder: Path
) -> None:
    broken = photos.collections.image("photos", "green-05").sha256
    bytes_captioner.broken.add(broken)
    bytes_captioner.full = 10
    report = run_caption(code=3)
    assert (report["stored"], report["missing"]) == (47, 1)
    (failure,) = report["failures"]
    assert (failure["image_id"], failure["error"]["reason"]) == ("green-05", "DAMAGED_IMAGE")
    result = cli("caption", "photos", "--captioner", f"unix:{folder}/c", code=3)
    assert "failed: green-05: DAMAGED_IMAGE: damaged" in result.stderr


def test_caption_stops_when_the_captioner_changes(photos: Client, bytes_captioner: Captioner, folder: Path) -> None:
    bytes_captioner.changes_to = "bytes@2"
    with captioner(f"unix:{folder}/c") as stub, pytest.raises(Aborted) as caught:
        caption(photos, "photos", stub=stub, max_edge=64)
    assert caught.value.reason == "MODEL_CHANGED"
    assert photos.collections.captions("photos", list(CONTENTS)) == ()


def test_caption_without_a_captioner(photos: Client, run_caption: Callable[..., Any], cli: Cli) -> None:
    assert "error" in cli("caption", "photos", "--captioner", "unix:/nowhere/s", code=5).stderr


# import-reference


@pytest.fixture
def reference(folder: Path) -> dict[str, Path]:
    """An index, its map and its images, as the reference lays them out; two vectors are not of length 1."""
    images = folder / "flickr30k_images"
    images.mkdir()
    for id, content in CONTENTS.items():
        (images / f"{id}.png").write_bytes(content)
    from PIL import Image

    pixels = [np.asarray(Image.open(images / f"{id}.png").convert("RGB").resize((32, 32))) for id in CONTENTS]
    vectors = TinyEncoder().embed_images(pixels)
    vectors[3] *= 2
    vectors[7] *= 0.5
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(folder / "x.index"))
    paths = {n: f"./playground/data/flickr30k/flickr30k_images/{id}.png" for n, id in enumerate(CONTENTS)}
    (folder / "ids.pkl").write_bytes(pickle.dumps(paths))
    return {"--index": folder / "x.index", "--ids": folder / "ids.pkl", "--images": images}


def imported(cli: Cli, files: dict[str, Path], *more: str, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of the command, in a process as a user's."""
    arguments = ["import-reference", "flickr", *(str(part) for pair in files.items() for part in pair), *more]
    command = [sys.executable, "-m", "warmer.cli", *arguments]
    done = subprocess.run(command, env=os.environ | cli._environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout, done.stderr


def test_import_reference(folder: Path, cli: Cli, reference: dict[str, Path]) -> None:
    with embedder(folder, "data", "s") as client:
        (reference["--images"] / "red-05.png").unlink()
        report = json.loads(imported(cli, reference, "--json", code=3)[0])
        assert (report["added"], report["normalised"], report["unnamed"]) == (47, 2, 0)
        (failure,) = report["failures"]
        assert failure["image_id"].endswith("/red-05.png") and failure["error"]["reason"] == "MISSING_FILE"
        image = client.collections.image("flickr", "red-04.png")
        assert (image.width, image.media_type) == (48, "image/png")
        hits = client.search("flickr", image=CONTENTS["red-03"], top_k=3).hits
        assert hits[0].image_id == "red-03.png" and hits[0].similarity == pytest.approx(1, abs=0.01)
        (reference["--images"] / "red-05.png").write_bytes(CONTENTS["red-05"])
        out, err = imported(cli, reference, "--model", "tiny@1")
        assert "48 images of the reference" in out and "unchanged" in out
        assert not err.count("failed")


def test_import_reference_refuses_what_does_not_fit(folder: Path, cli: Cli, reference: dict[str, Path]) -> None:
    touched = folder / "touched"

    class Evil:
        def __reduce__(self):
            return open, (str(touched), "w")

    (folder / "evil.pkl").write_bytes(pickle.dumps({0: Evil()}))
    (folder / "beyond.pkl").write_bytes(pickle.dumps({48: "red-00.png"}))
    vectors = np.random.default_rng(0).normal(size=(48, 28)).astype(np.float32)
    for name, dimensions in (("strange", 28), ("short", 12)):
        index = faiss.IndexFlatIP(dimensions)
        index.add(vectors[:, :dimensions].copy())
        faiss.write_index(index, str(folder / name))
    with embedder(folder, "data", "s") as client:
        for change, options, message in (
            ({"--ids": folder / "evil.pkl"}, (), "the pickle is refused"),
            ({"--ids": folder / "beyond.pkl"}, (), "not in"),
            ({"--ids": reference["--index"]}, (), "no pickle of plain data"),
            ({"--index": reference["--ids"]}, (), "no FAISS index"),
            ({"--index": folder / "strange"}, (), "another model than tiny@1"),
            ({"--index": folder / "short"}, (), "12 dimensions"),
            ({}, ("--model", "blip@1"), "the vectors are of blip@1"),
        ):
            _, err = imported(cli, reference | change, *options, code=1)
            assert message in err and "hint:" in err, err
        assert not touched.exists()
        assert client.collections.get("flickr").image_count == 0
