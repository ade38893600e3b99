"""Puts the rewriter together from its settings; the language model is loaded only where one is asked."""

import asyncio
from collections.abc import Callable

import structlog
from grpc import aio

from services.common.server import Service
from services.common.settings import Settings
from services.rewriter.merging import Merger
from services.rewriter.models import LanguageModel, load_language_model
from services.rewriter.prompts import load_prompt
from services.rewriter.servicer import RewriterServicer
from warmer.v1 import rewriter_pb2, rewriter_pb2_grpc

_log = structlog.get_logger(__name__)

LoadModel = Callable[[Settings], LanguageModel]


async def build(settings: Settings, load: LoadModel = load_language_model) -> Service:
    """The rewriter as a Service; `load` loads the language model, and any LanguageModel will do."""
    servicer = RewriterServicer(settings)

    def register(server: aio.Server) -> None:
        rewriter_pb2_grpc.add_RewriterServiceServicer_to_server(servicer, server)

    async def warm() -> None:
        if settings.rewriter_mode == "join":
            _log.info("rewriter joins query, captions and comment; no model is loaded")
            return
        merger = await asyncio.to_thread(_load, settings, load)
        servicer.attach(merger)
        model = merger.model
        _log.info("rewriter is warm", model=model.id, device=model.device, prompt=merger.prompt.version)

    return Service(
        registrations=[register],
        names=[rewriter_pb2.DESCRIPTOR.services_by_name["RewriterService"].full_name],
        warm=warm,
        close=servicer.close,
    )


def _load(settings: Settings, load: LoadModel) -> Merger:
    prompt = load_prompt(settings.rewriter_prompt)  # before the model, which may take minutes
    merger = Merger(load(settings), prompt, settings.rewriter_max_new_tokens, settings.rewriter_max_words)
    try:
        merger.warm()
    except BaseException:
        merger.close()  # what may pass is tried again, with a new one
        raise
    return merger
