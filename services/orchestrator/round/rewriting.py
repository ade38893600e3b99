"""The rewrite: asked of the rewriter, checked in embedding space, and replaced by the plain join where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing

from services.common.joining import plain_join
from services.orchestrator.round.peers import Peers
from services.orchestrator.round.recorder import Recorder
from services.orchestrator.round.stage import Outcome
from services.orchestrator.strategies import History
from warmer.v1 import orchestrator_pb2 as pb
from warmer.v1.rewriter_pb2 import Rewrite, RewriteRequest


def request_for(history: History, captions: Mapping[str, str]) -> RewriteRequest | None:
    """What to ask the rewriter, or None when there is nothing to merge.

    A hunt that began with an image alone has no query yet: then a caption, else the comment, takes its place.
    """
    turn = history.turn
    relevant = [captions[id] for id in turn.relevant if id in captions]
    irrelevant = [captions[id] for id in turn.irrelevant if id in captions]
    query, comment = history.query, turn.comment
    if not query and relevant:
        query = relevant.pop(0)
    elif not query:
        query, comment = comment, ""
    if not query or not (relevant or irrelevant or comment):
        return None
    return RewriteRequest(query=query, relevant_captions=relevant, irrelevant_captions=irrelevant, comment=comment)


def joined_query(history: History, captions: Mapping[str, str]) -> str:
    """``query, caption, comment``: what the rewrite falls back to. Captions of irrelevant images are not in it."""
    relevant = [captions[id] for id in history.turn.relevant if id in captions]
    return plain_join(history.query, relevant, history.turn.comment)


class RewriteStage:
    """Makes the rewrite of one round."""

    def __init__(self, request: RewriteRequest, joined: str, recorder: Recorder, peers: Peers, least: float) -> None:
        self._request = request
        self._joined = joined
        self._recorder = recorder
        self._rewriter = peers.rewriter
        self._embedder = peers.embedder
        self._least = least

    async def run(self) -> Outcome:
        """Streams the rewriter's words, then gives the rewrite, checked."""
        rewrite = Rewrite()
        async with aclosing(self._rewriter.rewrite(self._request)) as answers:
            async for group in answers:
                deltas = []
                for answer in group:
                    if answer.WhichOneof("event") == "text_delta":
                        deltas.append(pb.RefineSessionResponse(rewrite_delta=answer.text_delta))
                    else:
                        rewrite = answer.rewrite
                if deltas:
                    await self._recorder.emit(*deltas)
        return Outcome(events=self._set(await self._checked(rewrite)))

    def without(self) -> Sequence[pb.RefineSessionResponse]:
        """The plain join, when the rewriter failed or was too late."""
        return self._set(self._fallen_back(Rewrite(), Rewrite.FALLBACK_REASON_UNAVAILABLE))

    async def _checked(self, rewrite: Rewrite) -> Rewrite:
        """The rewrite, or the plain join when it is empty or strays too far from what was said."""
        if not rewrite.text.strip():
            return self._fallen_back(rewrite, Rewrite.FALLBACK_REASON_EMPTY)
        if rewrite.fell_back or rewrite.text == self._joined:
            return rewrite
        # Near either is enough: the join may drown a short query in captions.
        texts = [rewrite.text, self._joined, self._request.query]
        written, joined, query = await self._embedder.embed_texts(texts)
        if max(float(written @ joined), float(written @ query)) < self._least:
            return self._fallen_back(rewrite, Rewrite.FALLBACK_REASON_STRAYED)
        return rewrite

    def _fallen_back(self, rewrite: Rewrite, reason: Rewrite.FallbackReason.ValueType) -> Rewrite:
        return Rewrite(
            text=self._joined,
            model=rewrite.model,
            prompt_version=rewrite.prompt_version,
            fell_back=True,
            fallback_reason=reason,
            rejected_text=rewrite.text,
            tokens=rewrite.tokens,
        )

    def _set(self, rewrite: Rewrite) -> list[pb.RefineSessionResponse]:
        self._recorder.partial.rewrite.CopyFrom(rewrite)
        return [pb.RefineSessionResponse(rewrite=rewrite)]
