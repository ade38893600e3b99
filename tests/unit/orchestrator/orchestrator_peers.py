"""Stand-ins for embedder, captioner and rewriter: real gRPC servers with a simple deterministic computation.

They are here so that failures, delays and texts can be chosen; the real three are tested together with the orchestrator
in the contract suite. Space: every word has a random unit vector seeded by its hash, a text is the unit sum of its
words, and an image is its description. An image file is ``IMG:`` and the description, the caption is the description.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import numpy as np

from warmer.errors import InvalidArgument, NotFound, Unavailable, WarmerError, to_status
from warmer.names import image_parts
from warmer.v1 import captioner_pb2, common_pb2, embedder_pb2, rewriter_pb2
from warmer.v1 import orchestrator_pb2 as pb
from warmer.v1.captioner_pb2_grpc import CaptionerServiceServicer
from warmer.v1.embedder_pb2_grpc import EmbedderServiceServicer
from warmer.v1.rewriter_pb2_grpc import RewriterServiceServicer

DIMENSIONS = 32
MAX_TOKENS = 12
ANIMALS = ("dog", "cat", "horse", "bird", "fish", "cow", "fox", "goat")
PLACES = ("grass", "sand", "snow", "water", "street", "forest", "roof", "sofa")
COLOURS = ("black", "white", "brown")


def word_vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return vector / np.linalg.norm(vector)


def text_vector(text: str) -> np.ndarray:
    words = [word.strip(".,").lower() for word in text.split()][:MAX_TOKENS]
    vector = np.sum([word_vector(word) for word in words], axis=0)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def catalogue() -> dict[str, str]:
    """Description by image id: 192 images."""
    texts = [f"a {c} {a} on {p}" for a in ANIMALS for p in PLACES for c in COLOURS]
    return {f"img-{i:03d}.jpg": text for i, text in enumerate(texts)}


def image_bytes(description: str) -> bytes:
    return b"IMG:" + description.encode()


@dataclass
class Trouble:
    """What a stand-in does instead of its work, by method: raise an error, or first wait."""

    errors: dict[str, WarmerError] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def meet(self, method: str) -> None:
        self.calls.append(method)
        if method in self.delays:
            await asyncio.sleep(self.delays[method])
        if method in self.errors:
            raise self.errors[method]


class PlainEmbedder(EmbedderServiceServicer):
    """One collection, `collections/zoo`; scores as DESIGN section 5 says, computed with numpy over all images."""

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.descriptions = catalogue()
        self.ids = list(self.descriptions)
        self.vectors = np.stack([text_vector(self.descriptions[id]) for id in self.ids])
        self.searches: list[common_pb2.SearchSpec] = []
        self.captions: list[embedder_pb2.ImageCaption] = []  # kept ahead of time, newest first

    def vector(self, id: str) -> np.ndarray:
        if id not in self.descriptions:
            raise NotFound(f"no image {id}", reason="IMAGE_NOT_FOUND", resource=f"collections/zoo/images/{id}")
        return self.vectors[self.ids.index(id)]

    async def GetModel(self, request, context):
        return common_pb2.Model(id="words", backend="test", dimensions=DIMENSIONS, max_tokens=MAX_TOKENS)

    async def GetCollection(self, request, context):
        await self.trouble.meet("GetCollection")
        if request.name == "collections/old":
            return embedder_pb2.Collection(name=request.name, state=embedder_pb2.Collection.STATE_MODEL_MISMATCH)
        if request.name != "collections/zoo":
            raise NotFound(f"no {request.name}", reason="COLLECTION_NOT_FOUND", resource=request.name)
        return embedder_pb2.Collection(name=request.name, state=embedder_pb2.Collection.STATE_READY)

    async def EmbedText(self, request, context):
        await self.trouble.meet("EmbedText")
        vectors = np.stack([text_vector(text) for text in request.texts]).astype("<f4")
        return embedder_pb2.EmbedTextResponse(vectors=vectors.tobytes(), dimensions=DIMENSIONS, model="words")

    async def EmbedImages(self, request, context):
        await self.trouble.meet("EmbedImages")
        embeddings = []
        for image in request.images:
            if not image.startswith(b"IMG:"):
                error = InvalidArgument("not an image", reason="NOT_AN_IMAGE", hint="Give a JPEG or PNG.")
                embeddings.append(embedder_pb2.ImageEmbedding(status=to_status(error)))
            else:
                vector = text_vector(image[4:].decode()).astype("<f4").tobytes()
                embeddings.append(embedder_pb2.ImageEmbedding(vector=vector))
        return embedder_pb2.EmbedImagesResponse(embeddings=embeddings, dimensions=DIMENSIONS, model="words")

    async def GetImageContent(self, request, context):
        await self.trouble.meet("GetImageContent")
        _, id = image_parts(request.name)
        self.vector(id)
        data = image_bytes(self.descriptions[id])
        yield embedder_pb2.GetImageContentResponse(media_type="image/jpeg", chunk=data[:5])
        yield embedder_pb2.GetImageContentResponse(chunk=data[5:])

    async def GetImage(self, request, context):
        await self.trouble.meet("GetImage")
        _, id = image_parts(request.name)
        self.vector(id)
        return embedder_pb2.Image(name=request.name, sha256=self.sha256(id))

    async def GetCaptions(self, request, context):
        await self.trouble.meet("GetCaptions")
        found = {}
        for kept in self.captions:
            fits = not request.model or (kept.model, kept.prompt_version) == (request.model, request.prompt_version)
            if fits and kept.image_id in request.image_ids:
                found.setdefault(kept.image_id, kept)
        return embedder_pb2.GetCaptionsResponse(captions=[found[id] for id in request.image_ids if id in found])

    def sha256(self, id: str) -> str:
        return hashlib.sha256(image_bytes(self.descriptions[id])).hexdigest()

    async def Search(self, request, context):
        await self.trouble.meet("Search")
        spec = request.search
        self.searches.append(spec)
        similarity, score = self.score(spec)
        excluded = set(spec.excluded_image_ids)
        order = [i for i in np.argsort(-score, kind="stable") if self.ids[i] not in excluded][: spec.top_k]
        hits = [
            common_pb2.Hit(
                image_id=self.ids[i],
                score=score[i],
                similarity=similarity[i],
                sha256=self.sha256(self.ids[i]),
            )
            for i in order
        ]
        truncations = [
            common_pb2.Truncation(index=i, tokens=len(term.text.split()), max_tokens=MAX_TOKENS)
            for i, term in enumerate(spec.terms)
            if len(term.text.split()) > MAX_TOKENS
        ]
        return embedder_pb2.SearchResponse(hits=hits, truncations=truncations, revision=1)

    def score(self, spec: common_pb2.SearchSpec) -> tuple[np.ndarray, np.ndarray]:
        query = np.zeros(DIMENSIONS)
        for term in spec.terms:
            query = query + (term.weight or 1.0) * self.term_vector(term)
        similarity = self.vectors @ (query / np.linalg.norm(query))
        evidence = sum((self.log_likelihood(preference) for preference in spec.preferences), np.zeros(len(self.ids)))
        return similarity, similarity + spec.prior_temperature * evidence

    def term_vector(self, term: common_pb2.QueryTerm) -> np.ndarray:
        match term.WhichOneof("content"):
            case "text":
                return text_vector(term.text)
            case "vector":
                return np.frombuffer(term.vector, "<f4")
            case _:
                return self.vector(term.image_id)

    def log_likelihood(self, p: common_pb2.Preference) -> np.ndarray:
        """(images,): log-probability of the choice, for each image as the target."""
        total = np.zeros(len(self.ids))

        def affinity(id: str) -> np.ndarray:
            return np.exp(self.vectors @ self.vector(id) / p.temperature)

        others = sum((affinity(id) for id in [*p.irrelevant_image_ids, *p.unmarked_image_ids]), 0.0)
        for id in p.relevant_image_ids:
            count = 1 + len(p.irrelevant_image_ids) + len(p.unmarked_image_ids)
            total += np.log((1 - p.lapse) * affinity(id) / (affinity(id) + others) + p.lapse / count)
        if not p.relevant_image_ids:
            for x in p.irrelevant_image_ids:
                for u in p.unmarked_image_ids:
                    total += np.log((1 - p.lapse) * affinity(u) / (affinity(u) + affinity(x)) + p.lapse / 2)
        return total


class PlainCaptioner(CaptionerServiceServicer):
    """The caption of an image is its description; it is sent in two pieces."""

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.captioned: list[str] = []
        self.broken_keys: set[str] = set()

    async def GetModel(self, request, context):
        await self.trouble.meet("GetModel")
        return common_pb2.Model(id="plain-captioner", backend="test", prompt_version="p1")

    async def Caption(self, request, context):
        await self.trouble.meet("Caption")
        for item in request.items:
            self.captioned.append(item.key)
            if item.key in self.broken_keys:
                error = InvalidArgument("damaged", reason="DAMAGED_IMAGE")
                caption = captioner_pb2.Caption(key=item.key, model="plain-captioner", status=to_status(error))
                yield captioner_pb2.CaptionResponse(caption=caption)
                continue
            text = item.image[4:].decode()
            for piece in (text[:6], text[6:]):
                delta = captioner_pb2.CaptionDelta(key=item.key, text=piece)
                yield captioner_pb2.CaptionResponse(text_delta=delta)
            caption = captioner_pb2.Caption(
                key=item.key, text=text, model="plain-captioner", prompt_version="p1", tokens=len(text.split())
            )
            yield captioner_pb2.CaptionResponse(caption=caption)
            if "between" in self.trouble.delays:
                await asyncio.sleep(self.trouble.delays["between"])


class PlainRewriter(RewriterServiceServicer):
    """Writes `answer` if it is set, else the words of all its inputs, each once."""

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.requests: list[rewriter_pb2.RewriteRequest] = []
        self.answer = ""
        self.empty = False

    async def GetModel(self, request, context):
        return common_pb2.Model(id="plain-rewriter", backend="test", prompt_version="r1")

    async def Rewrite(self, request, context):
        await self.trouble.meet("Rewrite")
        self.requests.append(request)
        words = " ".join([request.query, *request.relevant_captions, request.comment]).replace(",", "").split()
        text = "" if self.empty else self.answer or " ".join(dict.fromkeys(words))
        for piece in text.split():
            yield rewriter_pb2.RewriteResponse(text_delta=piece + " ")
        await self.trouble.meet("before_rewrite")
        yield rewriter_pb2.RewriteResponse(
            rewrite=rewriter_pb2.Rewrite(text=text, model="plain-rewriter", prompt_version="r1", tokens=3)
        )


def unavailable(service: str) -> Unavailable:
    return Unavailable(f"{service} is down", reason="QUEUE_DOWN")


async def refine(stub, session: str, **fields: object) -> list[pb.RefineSessionResponse]:
    """All events of one RefineSession; `relevant`, `irrelevant` and `comment` make the feedback."""
    feedback = pb.Feedback(
        relevant_image_ids=fields.pop("relevant", ()),
        irrelevant_image_ids=fields.pop("irrelevant", ()),
        comment=fields.pop("comment", ""),
    )
    request = pb.RefineSessionRequest(session=session, feedback=feedback, **fields)
    return [event async for event in stub.RefineSession(request)]


async def new_session(stub, text: str = "a dog on grass", **fields: object) -> tuple[pb.Session, pb.Round]:
    """A session with its round 0."""
    session = await stub.CreateSession(
        pb.CreateSessionRequest(session=pb.Session(collection="collections/zoo", **fields))
    )
    return session, await stub.SearchSession(pb.SearchSessionRequest(session=session.name, text=text))
