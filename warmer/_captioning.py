"""Captions a whole collection ahead of time, and keeps the captions in it: ``warmer caption``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from warmer._passes import GroupResult, ImageFailure, Passes
from warmer._sync.calls import call, stream
from warmer.channel import make_channel
from warmer.client import Client
from warmer.errors import Aborted, DataLoss, Internal, InvalidArgument, NotFound, WarmerError, from_status
from warmer.types import Image, ImageCaption, Model
from warmer.v1 import captioner_pb2, captioner_pb2_grpc, common_pb2

GROUP_ITEMS = 16
IN_FLIGHT = 3
GROUP_TIMEOUT_S = 3600.0
"""Deadline for a group of images, in seconds: a large model on a CPU takes minutes for each."""

_PATIENCE = 20  # times that an image waits for room in the captioner's queue

_Answer = captioner_pb2.Caption | WarmerError


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What came of captioning.

    Attributes:
        collection: the collection.
        model: identity of the captioning model.
        prompt_version: version of its prompt.
        stored: number of images that have a new caption.
        failures: the images that could not be captioned.
        missing: images without a caption of this model and prompt, those that failed included.
        seconds: wall-clock time.
    """

    collection: str
    model: str
    prompt_version: str
    stored: int
    failures: tuple[ImageFailure, ...]
    missing: int
    seconds: float


@contextmanager
def captioner(target: str) -> Iterator[captioner_pb2_grpc.CaptionerServiceStub]:
    """A stub of the captioner at a target."""
    with make_channel(target) as channel:
        yield captioner_pb2_grpc.CaptionerServiceStub(channel)


def caption(
    client: Client,
    collection: str,
    *,
    stub: captioner_pb2_grpc.CaptionerServiceStub,
    max_edge: int,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionReport:
    """Captions all images that have no caption of the captioner's model and prompt.

    Args:
        client: where the collection is.
        collection: its id.
        stub: the captioner.
        max_edge: longer edge of the images that the captioner is handed, in pixels.
        limit: most images to caption; None for all.
        progress: is told how many images are done, of how many.

    Raises:
        NotFound: no such collection.
        Aborted: ``MODEL_CHANGED``: the captioner was restarted with another model meanwhile.
    """
    began = time.monotonic()
    model = Model.from_proto(call(stub.GetModel, common_pb2.GetModelRequest()))

    def missing() -> Iterator[Image]:
        return client.collections.images(
            collection, without_captions_of=model.id, without_captions_prompt_version=model.prompt_version
        )

    total = sum(1 for _ in missing())
    wanted = total if limit is None else min(total, limit)
    passes = Passes(
        missing=missing,
        work=_Work(client, collection, stub, model, max_edge),
        group_items=GROUP_ITEMS,
        in_flight=IN_FLIGHT,
        limit=limit,
        progress=lambda done: progress(done, max(done, wanted)) if progress else None,
    )
    passes.run()
    left = sum(1 for _ in missing())
    seconds = time.monotonic() - began
    return CaptionReport(collection, model.id, model.prompt_version, passes.stored, passes.failed, left, seconds)


@dataclass(frozen=True, slots=True)
class _Work:
    client: Client
    collection: str
    stub: captioner_pb2_grpc.CaptionerServiceStub
    model: Model
    max_edge: int

    def __call__(self, images: list[Image]) -> GroupResult:
        by_content: dict[str, list[Image]] = {}  # images with the same content are captioned once
        for image in images:
            by_content.setdefault(image.sha256, []).append(image)
        contents, answers = self._fetch(by_content)
        answers |= self._captions(contents)
        failures: dict[Image, WarmerError] = {}
        captions = []
        for sha256, answer in answers.items():
            for image in by_content[sha256]:
                if isinstance(answer, WarmerError):
                    failures[image] = answer
                else:
                    captions.append(_kept(image, answer))
        kept = self.client.collections.put_captions(self.collection, captions)
        return GroupResult(kept.stored_count, failures)

    def _fetch(self, by_content: dict[str, list[Image]]) -> tuple[dict[str, bytes], dict[str, _Answer]]:
        """Downscaled contents by SHA-256, and why some cannot be had."""
        contents: dict[str, bytes] = {}
        problems: dict[str, _Answer] = {}
        for sha256, (image, *_) in by_content.items():
            try:
                content = self.client.collections.image_bytes(self.collection, image.id, max_edge=self.max_edge)
            except NotFound:
                continue  # removed since it was listed
            except (InvalidArgument, DataLoss) as error:
                problems[sha256] = error
            else:
                contents[sha256] = content
        return contents, problems

    def _captions(self, contents: dict[str, bytes]) -> dict[str, _Answer]:
        """Captions by SHA-256, or why there is none. Waits while the captioner's queue is full."""
        answers = self._ask(contents) if contents else {}
        for _ in range(_PATIENCE):
            waits = {key: seconds for key, answer in answers.items() if (seconds := _wait_s(answer)) is not None}
            if not waits:
                break
            time.sleep(max(waits.values()))
            answers |= self._ask({key: contents[key] for key in waits})
        return answers

    def _ask(self, contents: dict[str, bytes]) -> dict[str, _Answer]:
        items = [captioner_pb2.CaptionItem(key=key, image=content) for key, content in contents.items()]
        answers: dict[str, _Answer] = {}
        for event in stream(self.stub.Caption, captioner_pb2.CaptionRequest(items=items), GROUP_TIMEOUT_S):
            if event.WhichOneof("event") != "caption":
                continue
            caption = event.caption
            if caption.text and (caption.model, caption.prompt_version) != (self.model.id, self.model.prompt_version):
                raise Aborted(
                    f"the captioner no longer runs {self.model.id}",
                    reason="MODEL_CHANGED",
                    hint="Run it again; what was made is kept.",
                )
            answers[caption.key] = caption if caption.text else _problem(caption)
        return answers


def _wait_s(answer: _Answer) -> float | None:
    """Seconds after which an item that found the queue full is to be asked for again; None for all others."""
    return answer.retry_after_s if isinstance(answer, WarmerError) else None


def _problem(caption: captioner_pb2.Caption) -> WarmerError:
    error = from_status(caption.status)
    return error or Internal("the captioner wrote nothing", reason="NO_CAPTION", hint="Look at the captioner's log.")


def _kept(image: Image, caption: captioner_pb2.Caption) -> ImageCaption:
    return ImageCaption(image.id, image.sha256, caption.text, caption.model, caption.prompt_version, caption.tokens)
