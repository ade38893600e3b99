"""Fetching a file by HTTP from a real server, which cuts, stalls, refuses and changes its mind."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from pathlib import Path

import pytest
from fetching_kit import DATA, bring
from file_server import FileServer

from services.common.fetched import fetched_folder
from services.common.settings import Settings
from services.fetching.lock import read_lock
from services.models import share_certificates
from warmer.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    WarmerError,
)

SHA = hashlib.sha256(DATA).hexdigest()
PATH = "/models/model.pth"

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def url(server: FileServer) -> str:
    server.files[PATH] = DATA
    return server.url + PATH


def hidden(settings: Settings) -> list[str]:
    return sorted(p.name for p in (settings.models_dir / "fetched").rglob("*"))


def test_a_file_comes_whole_with_its_lock(settings: Settings, url: str) -> None:
    lock = bring(settings, "mine", f"{url}?signature=secret")
    folder = fetched_folder(settings, "mine")
    assert (folder / "model.pth").read_bytes() == DATA
    assert [(f.path, f.size, f.sha256) for f in lock.files] == [("model.pth", len(DATA), SHA)]
    assert read_lock(folder) == lock
    assert lock.source == url  # without what signs it
    assert lock.accepted == "by a test"
    assert hidden(settings) == ["mine", "model.pth", "warmer.lock"]


def test_a_known_model_gets_its_name_and_licence_from_the_registry(settings: Settings, url: str) -> None:
    lock = bring(settings, "blip-coco", url)
    assert [f.path for f in lock.files] == ["model_base_retrieval_coco.pth"]
    assert (lock.kind, lock.licence, lock.accepted) == ("embedder", "BSD-3-Clause", "")


def test_a_cut_connection_goes_on_where_it_stopped(settings: Settings, server: FileServer, url: str) -> None:
    server.cut_after = [300_000, 400_000]
    assert bring(settings, "mine", url).files[0].sha256 == SHA
    assert "range" not in server.requests[0][1]
    assert all(headers.get("if-range") == '"one"' for _, headers in server.requests[1:])
    assert server.served[PATH] < len(DATA) + 3 * (1 << 16)


def test_a_server_without_ranges_is_asked_for_the_whole_again(settings: Settings, server: FileServer, url: str) -> None:
    server.ranges, server.cut_after = False, [300_000]
    assert bring(settings, "mine", url).files[0].sha256 == SHA
    assert server.served[PATH] == 300_000 + len(DATA)


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(settings: Settings, server: FileServer, url: str) -> None:
    server.cut_after = [700_000] + [0] * 10
    with pytest.raises(Unavailable) as caught:
        bring(settings, "mine", url)
    assert caught.value.reason == "DOWNLOAD_FAILED"
    assert "goes on where it stopped" in caught.value.hint
    assert not fetched_folder(settings, "mine").exists()
    server.cut_after, before = [], server.served[PATH]
    assert bring(settings, "mine", url).files[0].sha256 == SHA
    assert server.served[PATH] - before < 400_000


def test_a_file_that_has_changed_meanwhile_is_not_glued_to_the_old(
    settings: Settings, server: FileServer, url: str
) -> None:
    server.cut_after = [700_000] + [0] * 10
    with pytest.raises(Unavailable):
        bring(settings, "mine", url)
    server.cut_after, server.etag, server.files[PATH] = [], '"two"', DATA[::-1]
    bring(settings, "mine", url)
    assert (fetched_folder(settings, "mine") / "model.pth").read_bytes() == DATA[::-1]


def test_what_came_from_another_source_is_not_continued(settings: Settings, server: FileServer, url: str) -> None:
    server.cut_after = [700_000] + [0] * 10
    with pytest.raises(Unavailable):
        bring(settings, "mine", url)
    server.cut_after, server.files["/other/model.pth"] = [], DATA[::-1]
    bring(settings, "mine", f"{server.url}/other/model.pth")
    assert (fetched_folder(settings, "mine") / "model.pth").read_bytes() == DATA[::-1]


def test_a_slow_server_is_waited_for(settings: Settings, server: FileServer, url: str) -> None:
    server.delay_s = 0.05  # a piece each time; far longer in all than one read may take
    assert bring(settings, "mine", url).files[0].sha256 == SHA
    assert len(server.requests) == 1


def test_a_server_that_stalls_is_given_up(settings: Settings, server: FileServer, url: str) -> None:
    server.delay_s = 3.0
    with pytest.raises(Unavailable) as caught:
        bring(settings, "mine", url)
    assert "timed out" in caught.value.message


def test_a_server_that_is_busy_is_tried_again(settings: Settings, server: FileServer, url: str) -> None:
    server.statuses = [503, 429]
    assert bring(settings, "mine", url).files[0].sha256 == SHA


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, PermissionDenied, "FORBIDDEN"),
        (403, PermissionDenied, "FORBIDDEN"),
        (404, NotFound, "SOURCE_NOT_FOUND"),
        (500, Unavailable, "DOWNLOAD_FAILED"),
        (400, Unavailable, "DOWNLOAD_FAILED"),
    ],
)
def test_refusals(
    settings: Settings, server: FileServer, url: str, status: int, kind: type[WarmerError], reason: str
) -> None:
    server.statuses = [status] * 9
    with pytest.raises(kind) as caught:
        bring(settings, "mine", url)
    assert caught.value.reason == reason
    assert caught.value.hint
    assert not fetched_folder(settings, "mine").exists()


def test_nobody_there(settings: Settings) -> None:
    with pytest.raises(Unavailable) as caught:
        bring(settings, "mine", "http://127.0.0.1:9/model.pth")
    assert "Connection refused" in caught.value.message
    assert "HTTPS_PROXY" in caught.value.hint


def test_a_wrong_sum_is_an_error_that_names_both_and_removes_the_file(settings: Settings, url: str) -> None:
    wrong = "0" * 64
    with pytest.raises(DataLoss) as caught:
        bring(settings, "mine", url, sha256=wrong)
    assert caught.value.reason == "WRONG_SHA256"
    assert SHA in caught.value.message
    assert wrong in caught.value.message
    assert "model.pth" not in " ".join(hidden(settings))
    assert bring(settings, "mine", url, sha256=SHA.upper()).files[0].sha256 == SHA


def test_a_web_page_is_no_model(settings: Settings, server: FileServer) -> None:
    server.files["/page.pth"] = b"<html>click to download</html>"
    with pytest.raises(InvalidArgument) as caught:
        bring(settings, "mine", f"{server.url}/page.pth")
    assert caught.value.reason == "NOT_A_FILE"
    assert "--from FILE" in caught.value.hint


def test_a_url_must_end_in_a_weight_file(settings: Settings, server: FileServer) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bring(settings, "mine", f"{server.url}/download?id=7")
    assert caught.value.reason == "BAD_SOURCE"


def test_too_little_space_is_known_before_the_first_byte(
    settings: Settings, server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server promises more than any disk has; the body never comes.
    server.files[PATH] = DATA
    monkeypatch.setattr("file_server._Handler._file", _promise)
    with pytest.raises(ResourceExhausted) as caught:
        bring(settings, "mine", url)
    assert caught.value.reason == "NO_SPACE"
    assert "9000.0 TB" in caught.value.message
    assert "WARMER_MODELS_DIR" in caught.value.hint


def _promise(handler: object, *_: object) -> None:
    handler.send_response(200)  # type: ignore[attr-defined]
    handler.send_header("Content-Length", str(9 * 10**15))  # type: ignore[attr-defined]
    handler.end_headers()  # type: ignore[attr-defined]


def test_a_disk_that_fills_up_on_the_way(settings: Settings, url: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    staging = settings.models_dir / "fetched" / ".mine.part"
    staging.mkdir(parents=True)
    (staging / ".origin.json").write_text(json.dumps({"source": url, "revision": ""}))
    (staging / "model.pth.part").symlink_to("/dev/full")
    with pytest.raises(ResourceExhausted) as caught:
        bring(settings, "mine", url)
    assert caught.value.reason == "NO_SPACE"


def test_a_token_goes_to_the_server_that_it_is_for(
    settings: Settings, server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bring(settings, "mine", url, token_env="STORE_TOKEN")
    assert caught.value.reason == "NO_TOKEN"
    monkeypatch.setenv("STORE_TOKEN", "s3cret")
    server.gated = True
    bring(settings, "mine", url, token_env="STORE_TOKEN")
    assert server.requests[-1][1]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in (fetched_folder(settings, "mine") / "warmer.lock").read_text()


def test_a_proxy_is_asked_instead(settings: Settings, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://models.invalid/model.pth"] = DATA
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert bring(settings, "mine", "http://models.invalid/model.pth").files[0].sha256 == SHA


def test_an_authority_of_ones_own(
    settings: Settings, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    assert server._server is not None
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    server.files[PATH] = DATA
    url = server.url.replace("http://", "https://") + PATH
    with pytest.raises(Unavailable) as caught:
        bring(settings, "mine", url)
    assert caught.value.reason == "TLS_FAILED"
    assert "SSL_CERT_FILE" in caught.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    environment: dict[str, str] = {"SSL_CERT_FILE": str(certificate)}
    share_certificates(environment)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", environment["REQUESTS_CA_BUNDLE"])
    assert bring(settings, "mine", url).files[0].sha256 == SHA
