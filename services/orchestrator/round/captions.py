"""Captions of the marked images: those kept in the collection, else from the cache, else from the captioner.

The captioner is handed downscaled bytes; the first two move no image.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import aclosing

from services.orchestrator.options import OrchestratorOptions
from services.orchestrator.round.job import RoundJob
from services.orchestrator.round.peers import Peers
from services.orchestrator.round.recorder import Recorder
from services.orchestrator.round.stage import Outcome
from services.orchestrator.store.captions import CaptionCache
from services.orchestrator.strategies import merged
from warmer.errors import WarmerError
from warmer.names import collection_id
from warmer.v1 import captioner_pb2, embedder_pb2
from warmer.v1 import orchestrator_pb2 as pb


class CaptionStage:
    """Captions what one round marked. Every caption is stored as it comes, so that nobody has to make it again."""

    def __init__(
        self,
        job: RoundJob,
        recorder: Recorder,
        peers: Peers,
        cache: CaptionCache,
        options: OrchestratorOptions,
    ) -> None:
        self._job = job
        self._recorder = recorder
        self._embedder = peers.embedder
        self._captioner = peers.captioner
        self._cache = cache
        self._options = options
        self._problems: list[str] = []
        self._changed: set[str] = set()  # ids whose content is not what it was when it was streamed

    async def run(self) -> Outcome:
        """Captions the first `max_captions` marked images, relevant ones first; names what is missing."""
        turn = self._job.history.turn
        wanted = merged(turn.relevant, turn.irrelevant)[: self._options.max_captions]
        had = {caption.key for caption in self._recorder.partial.captions}  # by an earlier owner of the round
        await self._find([id for id in wanted if id not in had])
        have = captioned(self._recorder.partial.captions)
        lacking = [id for id in wanted if id not in have]
        if not lacking:
            return Outcome()
        reason = self._problems[0] if self._problems else "the captioner sent none"
        return Outcome(missing=f"{len(lacking)} of {len(wanted)} images have no caption: {reason}")

    async def _find(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        try:
            model, prompt_version = await self._captioner.model()
        except WarmerError:
            # It was never reached. A caption that another captioner made ahead of time is better than none.
            if await self._from_collection(ids, "", ""):
                raise
            return
        left = await self._from_collection(ids, model, prompt_version)
        if left:
            left = await self._from_cache(left, model, prompt_version)
        if left:
            await self._from_captioner(left)

    async def _from_collection(self, ids: Sequence[str], model: str, prompt_version: str) -> list[str]:
        """Takes what was captioned ahead of time; returns the rest."""
        collection = self._job.session.collection
        try:
            kept = await self._embedder.captions(collection, ids, model, prompt_version)
        except WarmerError as error:
            self._problems.append(error.message)
            return list(ids)
        if kept:
            await self._keep([_as_caption(caption) for caption in kept], ())
        found = {caption.image_id for caption in kept}
        return [id for id in ids if id not in found]

    async def _from_cache(self, ids: Sequence[str], model: str, prompt_version: str) -> list[str]:
        """Takes what is cached; returns the rest."""
        hashes = {id: self._job.sha256s.get(id, "") for id in ids}
        known = list(dict.fromkeys(sha256 for sha256 in hashes.values() if sha256))
        if not known:
            return list(ids)
        cached = await self._cache.get(self._job.session.ref.tenant, model, prompt_version, known)
        found = []
        for id, sha256 in hashes.items():
            if sha256 in cached:
                caption = captioner_pb2.Caption.FromString(cached[sha256])
                caption.key = id
                found.append(caption)
        if found:
            await self._keep(found, ())
        return [id for id, sha256 in hashes.items() if sha256 not in cached]

    async def _from_captioner(self, ids: Sequence[str]) -> None:
        fetched = dict(await self._fetch(ids))
        if not fetched:
            return
        same: dict[str, list[str]] = defaultdict(list)  # ids of one content are captioned once
        for id in fetched:
            same[self._sha256(id) or f"id:{id}"].append(id)
        groups = {group[0]: group for group in same.values()}
        images = [(id, fetched[id]) for id in groups]
        async with aclosing(self._captioner.caption(images)) as answers:
            async for group in answers:
                deltas, captions = [], []
                for answer in group:
                    if answer.WhichOneof("event") == "text_delta":
                        deltas.append(pb.RefineSessionResponse(caption_delta=answer.text_delta))
                    else:
                        captions += self._received(answer.caption, groups.get(answer.caption.key, ()))
                await self._keep(captions, deltas)
                await self._put(captions)

    def _received(self, caption: captioner_pb2.Caption, ids: Iterable[str]) -> list[captioner_pb2.Caption]:
        """The caption once for each id of its content; a failed one is noted."""
        self._captioner.remember(caption)
        if not caption.text:
            self._problems.append(caption.status.message or "the captioner wrote nothing")
        copies = []
        for id in ids:
            copy = captioner_pb2.Caption()
            copy.CopyFrom(caption)
            copy.key = id
            copies.append(copy)
        return copies

    async def _fetch(self, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Bytes of the images that can be had, a few at a time."""
        gate = asyncio.Semaphore(self._options.fetches)
        collection = collection_id(self._job.session.collection)

        async def fetch(id: str) -> tuple[str, bytes] | None:
            async with gate:
                try:
                    content = await self._embedder.content(collection, id, self._options.caption_max_edge)
                    # Replaced since it was streamed? A caption of the new content must not be cached for the old one.
                    if await self._embedder.sha256(collection, id) != self._job.sha256s.get(id, ""):
                        self._changed.add(id)
                    return id, content
                except WarmerError as error:
                    self._problems.append(error.message)
                    return None

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(fetch(id)) for id in ids]
        return [image for task in running if (image := task.result()) is not None]

    def _sha256(self, id: str) -> str:
        """Of what was fetched for the id; '' where it is not known for sure."""
        return "" if id in self._changed else self._job.sha256s.get(id, "")

    async def _keep(
        self, captions: Sequence[captioner_pb2.Caption], events: Sequence[pb.RefineSessionResponse]
    ) -> None:
        self._recorder.partial.captions.extend(caption for caption in captions if caption.text)
        await self._recorder.emit(*events, *(pb.RefineSessionResponse(caption=caption) for caption in captions))

    async def _put(self, captions: Sequence[captioner_pb2.Caption]) -> None:
        tenant = self._job.session.ref.tenant
        for caption in captions:
            sha256 = self._sha256(caption.key)
            if caption.text and sha256:
                kept = captioner_pb2.Caption()
                kept.CopyFrom(caption)
                kept.key = ""
                entry = {sha256: kept.SerializeToString()}
                await self._cache.put(tenant, caption.model, caption.prompt_version, entry)


def _as_caption(kept: embedder_pb2.ImageCaption) -> captioner_pb2.Caption:
    caption = captioner_pb2.Caption(
        key=kept.image_id,
        text=kept.text,
        model=kept.model,
        prompt_version=kept.prompt_version,
        tokens=kept.tokens,
    )
    caption.status.SetInParent()  # OK
    return caption


def captioned(captions: Iterable[captioner_pb2.Caption]) -> set[str]:
    """Image ids that have a caption."""
    return {caption.key for caption in captions}
