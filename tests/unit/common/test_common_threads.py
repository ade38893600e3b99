"""The thread budget reaches every library, and logs carry what they should."""

import json
import subprocess
import sys
import time

import pytest
import structlog

from services.common import deadlines, telemetry
from services.common.settings import load_settings
from services.common.threads import onnx_session_options
from warmer.errors import DeadlineExceeded


def test_budget_reaches_torch_and_faiss():
    code = (
        "from services.common.threads import apply_thread_budget, limit_faiss, limit_torch\n"
        "apply_thread_budget(1)\n"
        "import os, faiss, torch\n"
        "before = torch.get_num_threads(), faiss.omp_get_max_threads()\n"
        "limit_torch(2); limit_faiss(2)\n"
        "print(*before, torch.get_num_threads(), torch.get_num_interop_threads(), faiss.omp_get_max_threads(),"
        " os.environ['TOKENIZERS_PARALLELISM'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "1", "2", "1", "2", "false"]


def test_what_the_operator_set_stays(monkeypatch):
    code = "import os; from services.common.threads import apply_thread_budget as apply; apply(3)"
    code += "; print(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "7\n"


def test_onnx_options():
    options = onnx_session_options(2)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.fixture
def stderr(capsys):
    before = structlog.get_config()
    yield lambda: capsys.readouterr().err
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def test_json_logs_carry_service_and_request_id(stderr):
    telemetry.configure_logging(load_settings(log_format="json"), "captioner")
    telemetry.bind_request_id("r-1")
    log = structlog.get_logger("x")
    log.debug("not shown")
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("broke", items=3)
    (line,) = stderr().splitlines()
    seen = json.loads(line)
    assert (seen["service"], seen["request_id"], seen["event"], seen["items"]) == ("captioner", "r-1", "broke", 3)
    assert "ValueError: inside" in seen["exception"]


def test_console_logs_are_for_people(stderr):
    telemetry.configure_logging(load_settings(log_level="debug"), "captioner")
    structlog.get_logger("x").debug("shown", items=3)
    written = stderr()
    assert "shown" in written
    assert "items=3" in written
    assert "\x1b[" not in written, "no colours where nobody sees them"


def test_timings():
    timings = telemetry.Timings()
    with pytest.raises(ValueError, match="x"), timings.stage("search"):
        time.sleep(0.02)
        raise ValueError("x")
    timings.add("caption", 1.5)
    timings.add("search", 1.0)
    assert [name for name, _ in timings.stages] == ["search", "caption", "search"]
    assert 1.02 <= timings.seconds("search") < 1.5


async def test_deadlines_nest():
    assert deadlines.remaining_s() is None
    assert deadlines.budget_s(5) == 5
    with deadlines.deadline(1):
        with deadlines.deadline(10):
            assert 0.5 < (deadlines.remaining_s() or 0) <= 1
            assert deadlines.budget_s(5, margin_s=0.5) <= 0.5
        with deadlines.deadline(0), pytest.raises(DeadlineExceeded):
            deadlines.check_deadline()
        with pytest.raises(DeadlineExceeded):
            deadlines.budget_s(5, margin_s=2)
        deadlines.check_deadline()
    assert deadlines.remaining_s() is None
