"""The local stack's socket and life cycle, with the tiny embedder in place of the four services."""

import stat

import grpc
import pytest
from tiny_embedder import TinyEmbedder, service

from services import local
from services.common.settings import load_settings
from warmer.errors import FailedPrecondition, NotFound
from warmer.v1 import embedder_pb2 as pb
from warmer.v1.embedder_pb2_grpc import EmbedderServiceStub


@pytest.fixture
def seen(monkeypatch):
    """The settings that the services are built with."""
    seen = []

    async def build(settings):
        seen.append(settings)
        return service(TinyEmbedder(settings))

    monkeypatch.setattr(local, "_builds", lambda: [build])
    return seen


async def test_a_private_socket_that_everything_points_to(seen):
    async with local.local_stack(load_settings()) as target:
        (settings,) = seen
        assert target.startswith("unix:/")
        assert {settings.orchestrator_target, settings.embedder_target, settings.captioner_target} == {target}
        assert settings.rewriter_target == target
        folder = local.Path(target.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        async with grpc.aio.insecure_channel(target) as channel:
            await EmbedderServiceStub(channel).EmbedText(pb.EmbedTextRequest(texts=["look"]))
    assert not folder.exists()


async def test_a_chosen_socket_is_for_one_stack_only(seen, tmp_path):
    path = tmp_path / "new" / "s.sock"
    async with local.local_stack(load_settings(), socket_path=path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with pytest.raises(FailedPrecondition, match="in use"):
            async with local.local_stack(load_settings(), socket_path=path):
                pass
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            await EmbedderServiceStub(channel).EmbedText(pb.EmbedTextRequest(texts=["look"]))


async def test_a_failure_while_warming_cleans_up(monkeypatch):
    closed = []

    async def build(settings):
        async def warm():
            raise NotFound("the model file is gone", reason="MODEL_NOT_INSTALLED")

        async def close():
            closed.append(True)

        made = service(TinyEmbedder(settings), warm)
        return type(made)(made.registrations, made.names, warm, close)

    monkeypatch.setattr(local, "_builds", lambda: [build])
    with pytest.raises(NotFound):
        async with local.local_stack(load_settings()):
            pass
    assert closed == [True]
