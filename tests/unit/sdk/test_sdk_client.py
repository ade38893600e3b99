from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conftest import JPEG
from sdk_server import DIMENSIONS, Server

from warmer import Client, _adding, _refining, errors, types
from warmer.client import Session


def test_collections_from_creation_to_deletion(client: Client) -> None:
    made = client.collections.create("b", description="photos")
    assert (made.id, made.model, made.dimensions, made.state) == ("b", "tiny-1", DIMENSIONS, "ready")
    assert made.distance == "inner_product"
    assert made.create_time is not None
    assert made.create_time.year == 2023
    assert made.update_time is None
    client.collections.create("a")
    assert [c.id for c in client.collections.list()] == ["a", "b"]  # over two pages
    client.collections.delete("a")
    assert [c.id for c in client.collections.list()] == ["b"]


def test_errors_are_those_of_the_tree(client: Client) -> None:
    with pytest.raises(errors.NotFound) as caught:
        client.collections.get("nope")
    error = caught.value
    assert (error.reason, error.resource) == ("COLLECTION_NOT_FOUND", "collections/nope")
    assert error.hint == "List them with collections.list()."
    assert len(error.metadata["request_id"]) == 32
    assert isinstance(error.__cause__, grpc.RpcError)
    client.collections.create("c")
    with pytest.raises(errors.AlreadyExists):
        client.collections.create("c")


@pytest.mark.parametrize("id", ["", "A", "a/b", "ä"])
def test_bad_ids_never_leave_the_client(client: Client, server: Server, id: str) -> None:
    for act in (client.collections.create, client.collections.get, client.collections.delete):
        with pytest.raises(errors.InvalidArgument) as caught:
            act(id)
        assert caught.value.reason == "BAD_ID"
    assert not server.calls.counts


def test_errors_inside_streams_are_mapped(client: Client) -> None:
    client.collections.create("c")
    with pytest.raises(errors.NotFound) as caught:
        client.collections.image_bytes("c", "nope")
    assert caught.value.reason == "IMAGE_NOT_FOUND"


def test_images_and_their_content(client: Client, server: Server) -> None:
    server.embedder.collections["c"] = {f"i{n}": b"0123456789" * n for n in range(1, 6)}
    assert [image.id for image in client.collections.images("c")] == ["i1", "i2", "i3", "i4", "i5"]
    assert client.collections.image("c", "i2").size_bytes == 20
    assert list(client.collections.image_chunks("c", "i3")) == [b"0123456789"] * 3
    assert client.collections.image_bytes("c", "i3", max_edge=64) == b"0123456789" * 3
    removed = client.collections.remove("c", ["i1", "x"])
    assert (removed.removed_count, removed.missing_image_ids) == (1, ("x",))
    assert client.collections.remove("c", "i2").removed_count == 1  # one id, not its letters


def test_search_carries_every_argument(client: Client, server: Server) -> None:
    server.embedder.collections["c"] = {"a": b"1", "b": b"2", "x": b"3"}
    result = client.search(
        "c",
        "a dog",
        image=JPEG,
        image_id="a",
        terms=[types.Term(vector=np.ones(4, np.float32), weight=-0.5)],
        top_k=2,
        min_similarity=0.25,
        excluded="x",
        preferences=[types.Preference(("a",), (), ("b",), 0.5, 0.25)],
        min_revision=7,
        rerank=50,
    )
    assert [hit.image_id for hit in result.hits] == ["a", "b"]
    spec = server.embedder.last_search
    assert spec is not None
    assert [term.WhichOneof("content") for term in spec.terms] == ["text", "image", "image_id", "vector"]
    assert [term.weight for term in spec.terms] == [1, 1, 1, -0.5]
    assert spec.terms[3].vector == np.ones(4, "<f4").tobytes()
    assert (spec.top_k, spec.min_similarity, spec.min_revision, spec.rerank_count) == (2, 0.25, 7, 50)
    assert list(spec.excluded_image_ids) == ["x"]
    assert types.Search.from_proto(spec).to_proto() == spec  # so that a round's search can be repeated


def test_search_without_cutoff_sends_none(client: Client, server: Server) -> None:
    server.embedder.collections["c"] = {}
    client.search("c", "a dog")
    assert server.embedder.last_search is not None
    assert not server.embedder.last_search.HasField("min_similarity")


def test_searches_that_cannot_be_sent(client: Client, server: Server, tmp_path: Path) -> None:
    server.embedder.collections["c"] = {}
    cases: list[tuple[str, dict[str, object]]] = [
        ("EMPTY_QUERY", {}),
        ("BAD_TOP_K", {"text": "x", "top_k": 0}),
        ("BAD_TOP_K", {"text": "x", "top_k": 2**32}),
        ("BAD_ID", {"image_id": "a/b"}),
        ("BAD_ID", {"text": "x", "excluded": ["a/b"]}),
        ("UNREADABLE_FILE", {"image": tmp_path / "none.jpg"}),
        ("BAD_TERM", {"terms": [types.Term()]}),
        ("BAD_TERM", {"terms": [types.Term(text="a", image_id="b")]}),
        ("BAD_TERM", {"terms": [types.Term(text="a", weight=0)]}),
        ("BAD_VALUE", {"text": "\ud800"}),
        ("BAD_VALUE", {"text": "x", "min_revision": -1}),
        ("BAD_RERANK_COUNT", {"text": "x", "rerank": -1}),
    ]
    for reason, arguments in cases:
        with pytest.raises(errors.InvalidArgument) as caught:
            client.search("c", **arguments)  # type: ignore[arg-type]
        assert caught.value.reason == reason, arguments
    assert "Search" not in server.calls.counts


def test_rank(client: Client, server: Server) -> None:
    server.embedder.collections["c"] = {"a": b"1", "b": b"2"}
    ranking = client.rank(types.Search("c", (types.Term(text="dog"),)), ["b", "nope"])
    assert [(rank.image_id, rank.rank) for rank in ranking.ranks] == [("b", 2), ("nope", None)]
    assert ranking.candidates == 2


def test_embed_text_in_batches_with_truncation(client: Client, server: Server) -> None:
    texts = ["x" * (1 + n % 7) for n in range(600)]
    texts[300] = "a b c d e f g h i j"
    with pytest.warns(types.TruncationWarning, match="text 300 has 10 tokens; the encoder read the first 8"):
        vectors = client.embed_text(texts)
    assert vectors.shape == (600, DIMENSIONS)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [len(text) for text in texts]
    assert server.calls.counts["EmbedText"] == 3
    assert client.embed_text("dog").shape == (1, DIMENSIONS)
    assert client.embed_text([]).shape == (0, DIMENSIONS)


def test_embed_images_keeps_order_and_single_failures(client: Client, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    embeddings = client.embed_images([path, b"no image", *[JPEG] * 80])
    assert len(embeddings) == 82
    assert embeddings[0].vector is not None
    assert embeddings[0].vector.tolist() == [0.5] * DIMENSIONS
    assert embeddings[1].vector is None
    assert embeddings[1].error is not None
    assert embeddings[1].error.reason == "NOT_AN_IMAGE"
    assert server.calls.counts["EmbedImages"] == 2


# --- adding ------------------------------------------------------------------------------------------------------


def test_add_images_gives_one_result_for_each(client: Client, tmp_path: Path) -> None:
    client.collections.create("c")
    path = tmp_path / "p.jpg"
    path.write_bytes(JPEG)
    images = [
        types.NewImage("bytes", JPEG, source="somewhere"),
        types.NewImage("path", path),
        types.NewImage("text", b"words"),
        types.NewImage("gone", tmp_path / "gone.jpg"),
        types.NewImage("a/b", JPEG),
        types.NewImage("surrogate", JPEG, source="\udcff"),
    ]
    results = {result.image_id: result for result in client.collections.add_images("c", images)}
    assert {id: result.outcome for id, result in results.items()} == {
        "bytes": "added",
        "path": "added",
        "text": "failed",
        "gone": "failed",
        "a/b": "failed",
        "surrogate": "failed",
    }
    reasons = {id: result.error.reason for id, result in results.items() if result.error}
    assert reasons == {
        "text": "NOT_AN_IMAGE",
        "gone": "UNREADABLE_FILE",
        "a/b": "BAD_ID",
        "surrogate": "BAD_VALUE",
    }
    assert results["bytes"].source == "somewhere"
    again = list(client.collections.add_images("c", images[:2]))
    assert [result.outcome for result in again] == ["unchanged", "unchanged"]
    assert [r.outcome for r in client.collections.add_images("c", [types.NewImage("path", JPEG + b"2")])] == [
        "replaced"
    ]


def test_add_nothing(client: Client) -> None:
    client.collections.create("c")
    assert list(client.collections.add_images("c", [])) == []


def test_add_only_unreadable_files(client: Client, tmp_path: Path) -> None:
    client.collections.create("c")
    (result,) = client.collections.add_images("c", [types.NewImage("x", tmp_path / "x")])
    assert result.error is not None


def test_add_to_unknown_collection(client: Client) -> None:
    with pytest.raises(errors.NotFound):
        list(client.collections.add_images("nope", [types.NewImage("x", JPEG)]))


def test_add_too_large_a_file_fails_here(client: Client, server: Server, tmp_path: Path) -> None:
    client.collections.create("c")
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(_adding.MAX_MESSAGE_BYTES)
    (result, good) = client.collections.add_images("c", [types.NewImage("h", huge), types.NewImage("g", JPEG)])
    assert result.error is not None
    assert result.error.reason == "IMAGE_TOO_LARGE"
    assert "67,108,864" in result.error.message
    assert good.outcome == "added"
    assert server.embedder.received == 1


def test_adding_never_has_more_in_flight_than_the_window(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.collections.create("c")
    server.calls.silent_adding = True
    monkeypatch.setattr(_adding, "WINDOW_ITEMS", 5)
    monkeypatch.setattr(_adding.SyncWindow.__init__, "__defaults__", (5, 1 << 20))
    monkeypatch.setattr(_adding, "STALL_S", 0.5)
    taken: list[int] = []

    def images() -> Iterator[types.NewImage]:
        for number in range(100):
            taken.append(number)
            yield types.NewImage(str(number), JPEG)

    with pytest.raises(errors.DeadlineExceeded) as caught:
        list(client.collections.add_images("c", images()))
    assert caught.value.reason == "STALLED"
    assert server.embedder.received == 5
    assert len(taken) <= 7  # those in flight, and what was read ahead


def test_slow_source_is_no_stall(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.collections.create("c")
    monkeypatch.setattr(_adding, "STALL_S", 2.0)  # far above what a busy machine takes to answer

    def images() -> Iterator[types.NewImage]:
        for number in range(2):
            time.sleep(2.5)
            yield types.NewImage(str(number), JPEG)

    assert len(list(client.collections.add_images("c", images()))) == 2


def test_error_of_the_source_reaches_the_caller_after_the_results(client: Client) -> None:
    client.collections.create("c")

    def images() -> Iterator[types.NewImage]:
        yield types.NewImage("a", JPEG)
        raise ZeroDivisionError

    results = client.collections.add_images("c", images())
    assert next(results).outcome == "added"
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_leaving_early_stops_reading(client: Client) -> None:
    client.collections.create("c")
    taken: list[int] = []

    def images() -> Iterator[types.NewImage]:
        for number in range(10**9):
            taken.append(number)
            yield types.NewImage(str(number), JPEG)

    for _ in client.collections.add_images("c", images()):
        break
    time.sleep(0.2)
    count = len(taken)
    time.sleep(0.3)
    assert len(taken) == count


def test_broken_stream_is_an_error_and_sending_again_resumes(client: Client, server: Server) -> None:
    client.collections.create("c")
    server.calls.break_adding_after = 3
    images = [types.NewImage(str(n), JPEG) for n in range(5)]
    done = []
    with pytest.raises(errors.Unavailable):
        for result in client.collections.add_images("c", images):
            done.append(result.image_id)
    assert done == ["0", "1"]
    outcomes = [result.outcome for result in client.collections.add_images("c", images)]
    assert outcomes == ["unchanged"] * 2 + ["added"] * 3


def test_two_clients_add_at_once(server: Server) -> None:
    with Client(server.target) as one, Client(server.target) as other:
        one.collections.create("c")
        counts: list[int] = []

        def add(client: Client, name: str) -> None:
            images = (types.NewImage(f"{name}{n}", JPEG) for n in range(300))
            counts.append(sum(result.outcome == "added" for result in client.collections.add_images("c", images)))

        threads = [threading.Thread(target=add, args=pair) for pair in ((one, "a"), (other, "b"), (one, "c"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [300, 300, 300]
        assert one.collections.get("c").image_count == 900


# --- folders -----------------------------------------------------------------------------------------------------


def test_add_folder(client: Client, server: Server, gallery: Path) -> None:
    client.collections.create("c")
    seen: list[types.FolderProgress] = []
    report = client.collections.add_folder("c", gallery, progress=seen.append)
    assert (report.added, report.replaced, report.unchanged, report.skipped) == (3, 0, 0, 1)
    assert [(f.image_id, f.error.reason) for f in report.failures if f.error] == [("text.jpg", "NOT_AN_IMAGE")]
    assert sorted(server.embedder.collections["c"]) == ["50%25%2Fb.jpg", "a.jpg", "photo"]
    assert server.embedder.sources["50%25%2Fb.jpg"] == "50%/b.jpg"
    assert [(p.done, p.total) for p in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [p.result.image_id for p in seen] == ["50%25%2Fb.jpg", "a.jpg", "photo", "text.jpg"]
    assert report.revision == 3
    assert report.total == 4
    again = client.collections.add_folder("c", gallery)
    assert (again.added, again.unchanged) == (0, 3)


def test_folder_links_and_other_things_that_are_no_files(client: Client, gallery: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.jpg").write_bytes(JPEG)
    (gallery / "50%" / "up").symlink_to(gallery)  # a loop
    (gallery / "linked").symlink_to(outside)
    (gallery / "broken.jpg").symlink_to(gallery / "nowhere")
    os.mkfifo(gallery / "pipe.jpg")  # opening it would wait for ever
    client.collections.create("c")
    report = client.collections.add_folder("c", gallery)
    assert report.added == 4
    assert report.skipped == 3
    assert "linked%2Fo.jpg" in {image.id for image in client.collections.images("c")}


def test_folder_with_names_that_are_no_utf8_or_too_long(client: Client, gallery: Path) -> None:
    (gallery / os.fsdecode(b"caf\xe9.jpg")).write_bytes(JPEG)
    deep = gallery / ("d" * 200) / ("e" * 200) / ("f" * 200)
    deep.mkdir(parents=True)
    (deep / "x.jpg").write_bytes(JPEG)
    client.collections.create("c")
    report = client.collections.add_folder("c", gallery)
    reasons = sorted(failure.error.reason for failure in report.failures if failure.error)
    assert reasons == ["BAD_ID", "NOT_AN_IMAGE"]
    assert "caf%E9.jpg" in {image.id for image in client.collections.images("c")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_that_cannot_be_read_is_reported(client: Client, gallery: Path) -> None:
    (gallery / "50%").chmod(0)
    client.collections.create("c")
    report = client.collections.add_folder("c", gallery)
    assert report.added == 2
    assert "UNREADABLE_FILE" in {failure.error.reason for failure in report.failures if failure.error}


def test_empty_and_missing_folders(client: Client, tmp_path: Path) -> None:
    client.collections.create("c")
    assert client.collections.add_folder("c", tmp_path).total == 0
    for path in (tmp_path / "none", Path(sys.executable)):
        with pytest.raises(errors.InvalidArgument) as caught:
            client.collections.add_folder("c", path)
        assert caught.value.reason == "NOT_A_FOLDER"


# --- sessions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def session(client: Client, server: Server) -> Session:
    server.embedder.collections["c"] = {"a.jpg": b"1", "b.jpg": b"2"}
    made = client.sessions.create("c", strategy="rewrite", page_size=5, display_name="mine", ttl_s=60.5, id="s")
    made.search("a dog")
    return made


def test_session_from_creation_to_deletion(client: Client, server: Server, session: Session) -> None:
    info = session.info
    assert (info.id, info.collection, info.strategy, info.page_size) == ("s", "c", "rewrite", 5)
    assert (info.display_name, info.state, info.ttl_s, info.parent_round) == ("mine", "active", 60.5, None)
    assert server.orchestrator.requests[0].request_id
    updated = session.update(strategy="preference", page_size=7)
    assert (updated.strategy, updated.page_size, updated.display_name) == ("preference", 7, "mine")
    assert list(server.orchestrator.requests[-1].update_mask.paths) == ["strategy", "page_size"]
    assert session.refresh().round_count == 1
    assert [s.id for s in client.sessions.list()] == ["s"]
    finished = client.sessions.get("s").finish(found="a.jpg")
    assert (finished.state, finished.found_image_id) == ("finished", "a.jpg")
    session.delete()
    with pytest.raises(errors.NotFound) as caught:
        client.sessions.get("s")
    assert caught.value.reason == "SESSION_NOT_FOUND"


def test_round_zero(session: Session, server: Server) -> None:
    round = next(session.rounds())
    assert (round.session, round.index, round.query, round.feedback) == ("s", 0, "a dog", None)
    assert [hit.image_id for hit in round.hits] == ["a.jpg", "b.jpg"]
    assert round.search is not None
    assert round.search.terms[0].text == "a dog"
    session.search(image=JPEG, etag="e1", request_id="r")
    request = server.orchestrator.requests[-1]
    assert (request.image, request.etag, request.request_id) == (JPEG, "e1", "r")
    with pytest.raises(errors.InvalidArgument):
        session.search(image=JPEG, image_id="a.jpg")


def test_branch(client: Client, server: Server, session: Session) -> None:
    made = client.sessions.create(parent_round=("s", 0))
    assert made.info.parent_round == ("s", 0)
    assert made.info.collection == "c"
    with pytest.raises(errors.InvalidArgument) as caught:
        client.sessions.create()
    assert caught.value.reason == "MISSING_COLLECTION"
    with pytest.raises(errors.InvalidArgument) as caught:
        client.sessions.create("c", strategy="magic")  # type: ignore[arg-type]
    assert caught.value.reason == "BAD_STRATEGY"


def test_refine_gives_the_round(session: Session, server: Server) -> None:
    round = session.refine("a.jpg", ["b.jpg"], "on grass", displayed=["a.jpg", "b.jpg"], etag="e1")
    assert round.index == 1
    assert round.feedback == types.Feedback(("a.jpg",), ("b.jpg",), "on grass")
    assert round.rewrite is not None
    assert (round.rewrite.fell_back, round.rewrite.fallback_reason) == (True, "too_long")
    assert round.degraded_stages == ("rewrite",)
    request = server.orchestrator.requests[-1]
    assert list(request.displayed_image_ids) == ["a.jpg", "b.jpg"]
    assert request.etag == "e1"
    assert len(request.request_id) == 36


def test_refine_stream_gives_every_event(session: Session) -> None:
    events = list(session.refine_stream("a.jpg"))
    assert [type(event).__name__ for event in events] == [
        "StageEvent",
        "EarlyHits",
        "CaptionDelta",
        "CaptionReady",
        "StageEvent",
        "RewriteDelta",
        "RewriteReady",
        "StageEvent",
        "RoundReady",  # the event of unknown kind before it is left out
    ]
    assert events[0] == types.StageEvent(1, "caption", "started", None, "")
    assert events[4] == types.StageEvent(5, "caption", "finished", 1.5, "")
    assert events[7] == types.StageEvent(8, "rewrite", "skipped", None, "too late")


def test_refine_attaches_again_and_repeats_nothing(
    session: Session, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refining, "FIRST_BACKOFF_S", 0.01)
    whole = [event.sequence for event in session.refine_stream("a.jpg", request_id="whole")]
    server.calls.break_after = [0, 3, 2, 7]
    sequences = [event.sequence for event in session.refine_stream("a.jpg", request_id="broken")]
    assert sequences == whole
    assert server.calls.counts["RefineSession"] == 1 + 5
    assert {request.request_id for request in server.orchestrator.requests[-5:]} == {"broken"}
    assert len(list(session.rounds())) == 3  # one round for each request id


def test_refine_gives_up_after_a_bounded_number_of_streams(
    session: Session, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refining, "FIRST_BACKOFF_S", 0.01)
    server.calls.break_after = [1] * 100
    with pytest.raises(errors.Unavailable) as caught:
        session.refine("a.jpg")
    assert caught.value.reason == "DRAINING"
    assert server.calls.counts["RefineSession"] == _refining.MAX_ATTACHMENTS


def test_refine_does_not_repeat_other_errors(session: Session, server: Server) -> None:
    with pytest.raises(errors.Aborted) as caught:
        session.refine("a.jpg", etag="old")
    assert caught.value.reason == "STALE_ETAG"
    assert server.calls.counts["RefineSession"] == 1


def test_refine_deadline_spans_all_streams(session: Session, server: Server) -> None:
    server.calls.break_after = [1] * 100
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        session.refine("a.jpg", timeout_s=0.5)
    assert time.monotonic() - begin < 2
    assert all(left < 0.6 for left in server.calls.remaining[-server.calls.counts["RefineSession"] :])


def test_stream_without_round_is_an_error(session: Session, server: Server) -> None:
    server.calls.forget_round = True
    with pytest.raises(errors.Internal) as caught:
        session.refine("a.jpg")
    assert caught.value.reason == "NO_TERMINAL_ROUND"


def test_feedback_that_cannot_be_sent(session: Session, server: Server) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        session.refine("a.jpg", displayed=[])
    assert caught.value.reason == "EMPTY_DISPLAYED"
    with pytest.raises(errors.InvalidArgument):
        session.refine(["a/b"])
    assert server.calls.counts["RefineSession"] == 0


def test_nobody_there() -> None:
    with Client("127.0.0.1:1", embedder="127.0.0.1:1") as client, pytest.raises(errors.Unavailable) as caught:
        client.model()
    assert "warmer up" in caught.value.hint
