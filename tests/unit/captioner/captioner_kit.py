"""A captioner over real gRPC in this process, and what its tests send and collect."""

import io
from contextlib import asynccontextmanager

import grpc
import pytest
from PIL import Image

from services.captioner.service import build
from services.common.server import ServiceHost
from services.common.settings import load_settings
from warmer.errors import WarmerError, from_rpc_error
from warmer.v1.captioner_pb2 import CaptionItem
from warmer.v1.captioner_pb2_grpc import CaptionerServiceStub

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def image(colour, kind="PNG", size=(20, 10)):
    """The bytes of an image file of one colour: a name of COLOURS, or RGB."""
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(out, kind)
    return out.getvalue()


def item(key, data):
    return CaptionItem(key=key, image=data)


@asynccontextmanager
async def captioner(tmp_path, load=None, *, patient=False, **changes):
    """A stub of a captioner with these settings; `load` loads its model, None as the settings say.

    `patient` starts it as a real server does, which stays up when it cannot load its model.
    """
    settings = load_settings(**{"decode_workers": 1, **changes})
    host = ServiceHost(settings)
    host.add(await build(settings, load) if load else await build(settings))
    target = f"unix:{tmp_path}/c.sock"
    try:
        await host.start(target)
        await (host.warm_patiently() if patient else host.warm())
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield CaptionerServiceStub(channel)
    finally:
        await host.stop(0)


async def collect(call):
    """Deltas by key, and captions by key; checks the order within each key."""
    deltas, captions = {}, {}
    async for answer in call:
        if answer.WhichOneof("event") == "text_delta":
            assert answer.text_delta.key not in captions
            deltas.setdefault(answer.text_delta.key, []).append(answer.text_delta.text)
        else:
            assert answer.caption.key not in captions
            captions[answer.caption.key] = answer.caption
    return deltas, captions


async def error_of(call) -> WarmerError:
    """The error that a call as a whole ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value)
