"""A search, whole, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from warmer.errors import InvalidArgument
from warmer.names import collection_id, collection_name
from warmer.types._convert import seconds, vector_bytes, vectors
from warmer.types.choices import ChoiceModel, Preference
from warmer.v1 import common_pb2, embedder_pb2


class TruncationWarning(UserWarning):
    """A text was longer than the encoder reads; the rest was not used."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One weighted part of a query; set exactly one of text, image, image_id and vector.

    The query vector is the unit-length sum of ``weight`` times the unit embedding of each term; a negative weight
    pushes away.

    Attributes:
        text: words.
        image: the bytes of an image file.
        image_id: an image of the collection; its stored vector is used.
        vector: (D,) float32, normalised by the server.
        weight: of the term in the sum; not 0.
        skip_missing: leaves the term out when its ``image_id`` is not in the collection, instead of NotFound.
    """

    text: str | None = None
    image: bytes | None = None
    image_id: str | None = None
    vector: np.ndarray[Any, np.dtype[np.float32]] | None = None
    weight: float = 1.0
    skip_missing: bool = False

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Term) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[object, ...]:
        """What two equal terms share; arrays do not compare to one truth value, their bytes do."""
        vector = None if self.vector is None else self.vector.tobytes()
        return self.text, self.image, self.image_id, vector, self.weight, self.skip_missing

    def to_proto(self) -> common_pb2.QueryTerm:
        """As ``warmer.v1.QueryTerm``. Raises InvalidArgument (``BAD_TERM``) unless exactly one content is set."""
        given = [name for name in ("text", "image", "image_id", "vector") if getattr(self, name) is not None]
        if len(given) != 1 or self.weight == 0:
            raise InvalidArgument(
                f"a query term needs exactly one content and a weight that is not 0, this has {given or 'none'} "
                f"and weight {self.weight}",
                reason="BAD_TERM",
                field="terms",
                hint="Make one Term of each text, image, image_id or vector.",
            )
        if self.text is not None:
            return common_pb2.QueryTerm(text=self.text, weight=self.weight)
        if self.image is not None:
            return common_pb2.QueryTerm(image=self.image, weight=self.weight)
        if self.image_id is not None:
            return common_pb2.QueryTerm(image_id=self.image_id, weight=self.weight, skip_missing=self.skip_missing)
        return common_pb2.QueryTerm(vector=vector_bytes(self.vector), weight=self.weight)

    @classmethod
    def from_proto(cls, message: common_pb2.QueryTerm) -> Term:
        """From ``warmer.v1.QueryTerm``."""
        weight = message.weight or 1.0
        match message.WhichOneof("content"):
            case "text":
                return cls(text=message.text, weight=weight)
            case "image":
                return cls(image=message.image, weight=weight)
            case "image_id":
                return cls(image_id=message.image_id, weight=weight, skip_missing=message.skip_missing)
            case "vector":
                return cls(vector=vectors(message.vector, len(message.vector) // 4)[0], weight=weight)
        return cls(weight=weight)


@dataclass(frozen=True, slots=True)
class Search:
    """A search, whole: who holds it can repeat it (``client.run``), rank under it (``client.rank``) or explain it.

    Attributes:
        collection: id of the collection.
        terms: the query, at least one.
        preferences: evidence of earlier rounds.
        choice_models: ideas of how people choose, at most 8; none is one, by the vectors, with each preference's own
            temperature and lapse.
        prior_temperature: tau_q; 0 means the server's default.
        excluded_image_ids: not among the hits.
        min_similarity: hits have at least this similarity; None is no cutoff.
        min_revision: answer only from a state at least as new.
        top_k: how many hits, 1 to 10,000; 0 means the server's default.
        rerank_count: how many of the best hits the matching head re-ranks, at most 1,000; 0 is none.
    """

    collection: str
    terms: tuple[Term, ...]
    preferences: tuple[Preference, ...] = ()
    prior_temperature: float = 0.0
    excluded_image_ids: tuple[str, ...] = ()
    min_similarity: float | None = None
    min_revision: int = 0
    top_k: int = 0
    rerank_count: int = 0
    choice_models: tuple[ChoiceModel, ...] = ()

    def to_proto(self) -> common_pb2.SearchSpec:
        """As ``warmer.v1.SearchSpec``. Raises InvalidArgument for what the wire cannot carry."""
        return common_pb2.SearchSpec(
            collection=collection_name(self.collection),
            terms=[term.to_proto() for term in self.terms],
            preferences=[preference.to_proto() for preference in self.preferences],
            prior_temperature=self.prior_temperature,
            excluded_image_ids=self.excluded_image_ids,
            min_similarity=self.min_similarity,
            min_revision=self.min_revision,
            top_k=self.top_k,
            rerank_count=self.rerank_count,
            choice_models=[model.to_proto() for model in self.choice_models],
        )

    @classmethod
    def from_proto(cls, message: common_pb2.SearchSpec) -> Search:
        """From ``warmer.v1.SearchSpec``."""
        return cls(
            collection=collection_id(message.collection),
            terms=tuple(map(Term.from_proto, message.terms)),
            preferences=tuple(map(Preference.from_proto, message.preferences)),
            prior_temperature=message.prior_temperature,
            excluded_image_ids=tuple(message.excluded_image_ids),
            min_similarity=message.min_similarity if message.HasField("min_similarity") else None,
            min_revision=message.min_revision,
            top_k=message.top_k,
            rerank_count=message.rerank_count,
            choice_models=tuple(map(ChoiceModel.from_proto, message.choice_models)),
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One image that a search found.

    Attributes:
        image_id: the id inside its collection.
        score: what hits are ordered by, re-ranked ones aside.
        similarity: inner product with the unit query vector, in [-1, 1].
        sha256: of the image content, lower-case hex.
        match: logit of "image and words match", where the hit was re-ranked. Re-ranked hits are ordered by
            ``score + match`` and come before all others.
    """

    image_id: str
    score: float
    similarity: float
    sha256: str
    match: float | None = None

    @classmethod
    def from_proto(cls, message: common_pb2.Hit) -> Hit:
        """From ``warmer.v1.Hit``."""
        match = message.match if message.HasField("match") else None
        return cls(message.image_id, message.score, message.similarity, message.sha256, match)


@dataclass(frozen=True, slots=True)
class Truncation:
    """Says that a text was longer than the encoder reads.

    Attributes:
        index: of the text, or of the term in a search.
        tokens: that the text has.
        max_tokens: that the encoder reads.
    """

    index: int
    tokens: int
    max_tokens: int

    @classmethod
    def from_proto(cls, message: common_pb2.Truncation) -> Truncation:
        """From ``warmer.v1.Truncation``."""
        return cls(message.index, message.tokens, message.max_tokens)


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Wall-clock time of one stage, in seconds."""

    stage: str
    seconds: float

    @classmethod
    def from_proto(cls, message: common_pb2.StageTiming) -> StageTiming:
        """From ``warmer.v1.StageTiming``."""
        return cls(message.stage, seconds(message.duration))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        hits: best first.
        revision: of the collection that was searched.
        truncations: text terms that were longer than the encoder reads.
        timings: of the stages.
    """

    hits: tuple[Hit, ...]
    revision: int
    truncations: tuple[Truncation, ...]
    timings: tuple[StageTiming, ...]

    @classmethod
    def from_proto(cls, message: embedder_pb2.SearchResponse) -> SearchResult:
        """From ``warmer.v1.SearchResponse``."""
        return cls(
            tuple(map(Hit.from_proto, message.hits)),
            message.revision,
            tuple(map(Truncation.from_proto, message.truncations)),
            tuple(map(StageTiming.from_proto, message.timings)),
        )


@dataclass(frozen=True, slots=True)
class ImageRank:
    """Where one image ranks.

    Attributes:
        image_id: the id.
        rank: 1 for the best; None when the image is not there, or excluded while exclusions apply.
        score: what the ranking is ordered by.
        similarity: inner product with the unit query vector.
    """

    image_id: str
    rank: int | None
    score: float
    similarity: float

    @classmethod
    def from_proto(cls, message: embedder_pb2.ImageRank) -> ImageRank:
        """From ``warmer.v1.ImageRank``."""
        rank = message.rank if message.HasField("rank") else None
        return cls(message.image_id, rank, message.score, message.similarity)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where the given images rank.

    Attributes:
        ranks: in the order of the ids asked for.
        candidates: number of images that took part.
        revision: of the collection that was searched.
    """

    ranks: tuple[ImageRank, ...]
    candidates: int
    revision: int

    @classmethod
    def from_proto(cls, message: embedder_pb2.RankImagesResponse) -> Ranking:
        """From ``warmer.v1.RankImagesResponse``."""
        return cls(tuple(map(ImageRank.from_proto, message.ranks)), message.candidates, message.revision)
