"""Checks requests before anything is done with them, and turns a SearchSpec into a Query."""

import math
from collections.abc import Sequence

import numpy as np

from services.common.settings import Settings
from services.embedder.query import DEFAULT_TOP_K, MAX_RERANK, MAX_TOP_K, Choice, Marks, Query, Term
from warmer.errors import InvalidArgument
from warmer.names import collection_id
from warmer.v1 import common_pb2

MAX_IDS = 10_000
MAX_TERMS = 100
MAX_DISPLAYED = 4096
MAX_CHOICE_MODELS = 8
FLOAT32 = np.dtype("<f4")


def query_of(spec: common_pb2.SearchSpec, settings: Settings) -> Query:
    """The search that a SearchSpec describes. Raises InvalidArgument."""
    if not spec.terms:
        raise bad(
            "EMPTY_QUERY", "the search has no terms", "search.terms", "give a text, an image, an image id or a vector"
        )
    if len(spec.terms) > MAX_TERMS:
        raise too_many(len(spec.terms), "terms", MAX_TERMS, "search.terms")
    if spec.top_k > MAX_TOP_K:
        raise bad("BAD_TOP_K", f"top_k is {spec.top_k:,}", "search.top_k", f"ask for 1 to {MAX_TOP_K:,} hits")
    least = spec.min_similarity if spec.HasField("min_similarity") else None
    if least is not None and math.isnan(least):
        raise bad("BAD_VALUE", "min_similarity is not a number", "search.min_similarity", "it is a cosine, -1 to 1")
    marks = [_marks(preference, settings, index) for index, preference in enumerate(spec.preferences)]
    displayed = sum(len(m.relevant) + len(m.irrelevant) + len(m.unmarked) for m in marks)
    if displayed > MAX_DISPLAYED:
        raise too_many(displayed, "displayed images", MAX_DISPLAYED, "search.preferences")
    query = Query(
        collection_id=collection_id(spec.collection),
        terms=[_term(term, index) for index, term in enumerate(spec.terms)],
        marks=marks,
        choices=_choices(spec.choice_models, settings),
        prior_temperature=_temperature(spec.prior_temperature, settings.prior_temperature, "search.prior_temperature"),
        excluded=list(spec.excluded_image_ids),
        min_similarity=least,
        min_revision=spec.min_revision,
        top_k=spec.top_k or DEFAULT_TOP_K,
        rerank_count=spec.rerank_count,
    )
    _check_reranking(query)
    return query


def check_text(text: str, field: str) -> str:
    """The text without white space around it. Raises InvalidArgument (EMPTY_QUERY) when nothing is left."""
    stripped = text.strip()
    if not stripped:
        raise bad("EMPTY_QUERY", "the text is empty", field, "say in some words what to look for")
    return stripped


def check_ids(ids: Sequence[str], field: str) -> list[str]:
    """The ids. Raises InvalidArgument (TOO_MANY) for more than 10,000."""
    if len(ids) > MAX_IDS:
        raise too_many(len(ids), "image ids", MAX_IDS, field)
    return list(ids)


def too_many(count: int, what: str, most: int, field: str) -> InvalidArgument:
    """The error for a list that is too long."""
    return bad("TOO_MANY", f"there are {count:,} {what}; at most {most:,} are possible", field, "send them in parts")


def bad(reason: str, message: str, field: str, hint: str) -> InvalidArgument:
    """An InvalidArgument with everything that it should say."""
    return InvalidArgument(message, reason=reason, field=field, hint=hint)


def _check_reranking(query: Query) -> None:
    field = "search.rerank_count"
    if query.rerank_count > MAX_RERANK:
        message = f"rerank_count is {query.rerank_count:,}"
        raise bad(
            "BAD_RERANK_COUNT", message, field, f"ask for at most {MAX_RERANK:,} hits to be re-ranked; 0 for none"
        )
    if query.rerank_count and not query.rerank_text:
        raise bad(
            "NO_RERANK_TEXT",
            "hits are to be re-ranked, but the search has no text term of positive weight to match them with",
            field,
            "add a text term, or leave rerank_count away",
        )


def _term(term: common_pb2.QueryTerm, index: int) -> Term:
    field = f"search.terms[{index}]"
    if not math.isfinite(term.weight):
        raise bad("BAD_WEIGHT", f"the weight is {term.weight}", f"{field}.weight", "give a finite number")
    weight = term.weight or 1.0
    match term.WhichOneof("content"):
        case "text":
            return Term("text", weight, text=check_text(term.text, f"{field}.text"))
        case "image":
            return Term("image", weight, image=term.image)
        case "image_id":
            return Term("image_id", weight, image_id=term.image_id, skip_missing=term.skip_missing)
        case "vector":
            return Term("vector", weight, vector=_unit(term.vector, f"{field}.vector"))
        case _:
            raise bad("EMPTY_QUERY", "the term has no content", field, "set text, image, image_id or vector")


def _unit(data: bytes, field: str) -> np.ndarray:
    """The vector in `data`, normalised; of any length."""
    if not data or len(data) % FLOAT32.itemsize:
        message = f"the vector has {len(data)} bytes, which is no whole number of float32 values"
        raise bad("BAD_VECTOR", message, field, "send little-endian float32 values")
    vector = np.frombuffer(data, FLOAT32).astype(np.float64)
    length = float(np.linalg.norm(vector))
    if not math.isfinite(length):
        raise bad("BAD_VECTOR", "the vector has values that are not finite", field, "look for NaN where it was made")
    if length == 0:
        raise bad("ZERO_QUERY", "the vector is zero and has no direction", field, "leave the term away")
    return (vector / length).astype(np.float32)


def _marks(preference: common_pb2.Preference, settings: Settings, index: int) -> Marks:
    field = f"search.preferences[{index}]"
    relevant, irrelevant, unmarked = (
        list(dict.fromkeys(ids))
        for ids in (preference.relevant_image_ids, preference.irrelevant_image_ids, preference.unmarked_image_ids)
    )
    if len({*relevant, *irrelevant, *unmarked}) < len(relevant) + len(irrelevant) + len(unmarked):
        raise bad(
            "CONFLICTING_MARKS",
            "an image is in more than one of relevant, irrelevant and unmarked",
            field,
            "a displayed image is one of the three",
        )
    _check_lapse(preference.lapse, field)
    temperature = _temperature(preference.temperature, settings.preference_temperature, f"{field}.temperature")
    return Marks(relevant, irrelevant, unmarked, temperature, preference.lapse)


def _choices(models: Sequence[common_pb2.ChoiceModel], settings: Settings) -> list[Choice]:
    if len(models) > MAX_CHOICE_MODELS:
        raise too_many(len(models), "choice models", MAX_CHOICE_MODELS, "search.choice_models")
    choices = []
    for index, model in enumerate(models):
        field = f"search.choice_models[{index}]"
        _check_lapse(model.lapse, field)
        if not math.isfinite(model.weight) or model.weight < 0:
            raise bad("BAD_WEIGHT", f"the weight is {model.weight}", f"{field}.weight", "give a number above 0")
        learned = model.similarity == common_pb2.ChoiceModel.SIMILARITY_LEARNED
        temperature = _temperature(model.temperature, settings.preference_temperature, f"{field}.temperature")
        choices.append(Choice("learned" if learned else "vectors", temperature, model.lapse, model.weight or 1.0))
    return choices


def _check_lapse(lapse: float, field: str) -> None:
    if not 0 <= lapse < 1:
        raise bad("BAD_VALUE", f"the lapse is {lapse}", f"{field}.lapse", "it is in [0, 1)")


def _temperature(value: float, default: float, field: str) -> float:
    if not math.isfinite(value) or value < 0:
        raise bad("BAD_TEMPERATURE", f"the temperature is {value}", field, "it is above 0; 0 takes the default")
    return value or default
