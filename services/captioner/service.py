"""Puts the captioner together from its settings: starts the decoding processes, then loads and warms the model."""

import asyncio
from collections.abc import Callable

import numpy as np
import structlog
from grpc import aio

from services.captioner.models import EMPTY_CAPTION, CaptionModel, load_captioner
from services.captioner.servicer import CaptionerServicer
from services.common.decoding import Decoder
from services.common.server import Service
from services.common.settings import Settings
from warmer.errors import WarmerError
from warmer.v1 import captioner_pb2, captioner_pb2_grpc

_log = structlog.get_logger(__name__)

LoadModel = Callable[[Settings], CaptionModel]


async def build(settings: Settings, load: LoadModel = load_captioner) -> Service:
    """The captioner as a Service; `load` loads the model, and any CaptionModel will do."""
    decoder = Decoder(settings)
    servicer = CaptionerServicer(settings, decoder)

    def register(server: aio.Server) -> None:
        captioner_pb2_grpc.add_CaptionerServiceServicer_to_server(servicer, server)

    async def warm() -> None:
        model = await asyncio.to_thread(_load, settings, load)
        servicer.attach(model)
        _log.info("captioner is warm", model=model.id, prompt=model.prompt_version)

    async def close() -> None:
        await servicer.close()
        await decoder.close()

    return Service(
        registrations=[register],
        names=[captioner_pb2.DESCRIPTOR.services_by_name["CaptionerService"].full_name],
        warm=warm,
        close=close,
    )


def _load(settings: Settings, load: LoadModel) -> CaptionModel:
    """The model, once it has described a first image, so that nobody waits for what that allocates and compiles.

    A model that cannot do it (its files do not fit together, its server is away) raises its error: it cannot serve.
    """
    model = load(settings)
    black = np.zeros((model.resize.size, model.resize.size, 3), np.uint8)
    (outcome,) = model.caption([black], lambda _index, _text: None)
    if isinstance(outcome, WarmerError) and outcome.reason != EMPTY_CAPTION:  # of a black image there is little to say
        raise outcome
    return model
