"""A small embedder on the real stubs, whose texts say what it should do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from services.common import deadlines
from services.common.channels import make_service_channel
from services.common.server import Service, ServiceHost
from services.common.settings import Settings, load_settings
from services.common.telemetry import current_request_id
from warmer.errors import InvalidArgument, NotFound
from warmer.v1 import embedder_pb2, embedder_pb2_grpc

NAME = embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name
SECRET = "/secret/path"


class TinyEmbedder(embedder_pb2_grpc.EmbedderServiceServicer):
    """Answers EmbedText with what it saw, as JSON in `model`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seen: list[str] = []
        self.cleaned_up = asyncio.Event()

    async def EmbedText(self, request, context):
        command, _, argument = request.texts[0].partition(":")
        self.seen.append(command)
        await getattr(self, f"_{command}")(argument, context)
        seen = {"request_id": current_request_id(), "left": deadlines.remaining_s()}
        return embedder_pb2.EmbedTextResponse(model=json.dumps(seen))

    async def _look(self, _argument, _context):
        return

    async def _fail(self, argument, _context):
        message = "x" * int(argument) if argument else "the text is wrong"
        raise InvalidArgument(
            message,
            reason="BAD_TEXT",
            hint="write another",
            field="texts[0]",
            resource="collections/a",
            retry_after_s=1.5,
        )

    async def _boom(self, _argument, _context):
        raise ValueError(SECRET)

    async def _abort(self, _argument, context):
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")

    async def _sleep(self, argument, _context):
        await asyncio.sleep(float(argument))

    async def _time(self, _argument, _context):
        async with deadlines.timeout_for_rest():
            await asyncio.sleep(60)

    async def _forward(self, argument, _context):
        """Calls the service at `target|text` and fails or answers as that one does."""
        target, text = argument.split("|")
        async with make_service_channel(target, self.settings) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            response = await stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=[text]))
        self.seen.append(response.model)

    async def GetImageContent(self, request, context):
        try:
            for number in range(request.max_edge):
                yield embedder_pb2.GetImageContentResponse(chunk=bytes([number]))
                if request.name == "slow":
                    await asyncio.sleep(0.05)
            if request.name == "missing":
                raise NotFound("no such image", reason="IMAGE_NOT_FOUND", resource="collections/a/images/b")
        finally:
            self.cleaned_up.set()

    async def AddImages(self, request_iterator, context):
        async for request in request_iterator:
            if not request.item.image_id:
                raise InvalidArgument("an id is needed", reason="BAD_ID")
            yield embedder_pb2.AddImagesResponse(committed_offset=request.item.offset)


def service(tiny: TinyEmbedder, warm=None) -> Service:
    async def nothing() -> None:
        return

    def register(server: grpc.aio.Server) -> None:
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(tiny, server)

    return Service([register], [NAME], warm or nothing, nothing)


@asynccontextmanager
async def running(settings: Settings | None = None) -> AsyncIterator[tuple[TinyEmbedder, str]]:
    settings = settings or load_settings()
    host = ServiceHost(settings)
    tiny = TinyEmbedder(settings)
    host.add(service(tiny))
    (port,) = await host.start("127.0.0.1:0")
    await host.warm()
    try:
        yield tiny, f"127.0.0.1:{port}"
    finally:
        await host.stop(0)
