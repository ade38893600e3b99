"""Settings: defaults, sources, errors, and .env.example."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common import settings as settings_module
from services.common.settings import Settings, env_example, load_settings
from warmer.errors import InvalidArgument

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("WARMER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_env_example_is_up_to_date():
    committed = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert committed == env_example(), "run: python -m services.common.settings > .env.example"


def test_env_example_uncommented_is_valid_and_changes_nothing(tmp_path, monkeypatch):
    lines = [line.removeprefix("# ") for line in env_example().splitlines() if line.startswith("# WARMER_")]
    assert len(lines) == len(Settings.model_fields)
    (tmp_path / ".env").write_text("\n".join(line for line in lines if "(default:" not in line))
    assert load_settings() == load_settings(_env_file=None)


def test_every_field_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_environment_goes_before_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("WARMER_EMBEDDER_PORT=6001\nWARMER_CAPTIONER_PORT=6002\nOTHER=1\n")
    monkeypatch.setenv("WARMER_CAPTIONER_PORT", "7002")
    settings = load_settings()
    assert (settings.embedder_port, settings.captioner_port) == (6001, 7002)
    assert settings.embedder_target == "localhost:6001"
    assert load_settings(embedder_target="unix:/x").embedder_target == "unix:/x"


def test_home_is_expanded_and_threads_follow_the_cores(monkeypatch):
    settings = load_settings()
    assert settings.data_dir == Path.home() / ".local/share/warmer"
    assert settings.threads == settings_module.usable_cores() >= 1


def test_a_bad_value_names_its_variable(monkeypatch):
    monkeypatch.setenv("WARMER_DRAIN_S", "soon")
    monkeypatch.setenv("WARMER_LOG_FORMAT", "xml")
    with pytest.raises(InvalidArgument) as caught:
        load_settings()
    assert caught.value.reason == "BAD_SETTING"
    assert caught.value.field == "WARMER_LOG_FORMAT"
    assert "WARMER_DRAIN_S='soon'" in str(caught.value)
    assert "'console' or 'json'" in str(caught.value)


def test_copies_are_checked_too():
    assert load_settings().with_changes(decode_workers=1).decode_workers == 1
    with pytest.raises(InvalidArgument, match="WARMER_DECODE_WORKERS=0"):
        load_settings().with_changes(decode_workers=0)


def test_main_ends_with_code_2_and_one_line(tmp_path):
    environment = {**os.environ, "WARMER_EMBEDDER_PORT": "99999999", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("tiny_service.py")
    done = subprocess.run(
        [sys.executable, script, "x"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("embedder: bad settings: WARMER_EMBEDDER_PORT='99999999'")
    assert "Traceback" not in done.stderr
