"""``warmer up``: runs the services until it is told to stop, or until one of them dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from warmer.cli import output
from warmer.cli.stack import LOCAL, SERVICES, Child, LogTail, Stack, is_serving, require_services
from warmer.errors import FailedPrecondition, InvalidArgument, WarmerError

DEFAULT_PORT = 50050
MAX_SOCKET_BYTES = 100  # of about 108 that sun_path has
_CAN_BE_MISSED = ("captioner", "rewriter")  # a round that lacks them is degraded, and says so

OneProcess = Annotated[
    bool, typer.Option("--one-process", help="All services in one process, on a unix socket; for a laptop.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="WARMER_DATA_DIR",
        file_okay=False,
        help="Folder of collections, sessions and logs. (default: ~/.local/share/warmer)",
        show_default=False,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65532,
        help="The orchestrator's port; embedder, captioner and rewriter take the next three. "
        "(default: WARMER_ORCHESTRATOR_PORT and so on, else 50050)",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which models to run: compact, hub, paper or serve. (default: WARMER_PROFILE, else compact)",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Precision of captioner and rewriter: int4, int8 or fp16.", show_default=False),
]
_MODEL = "a file or folder, or what `warmer models fetch` brought"
EmbedderModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help=f"CLIP, SigLIP or BLIP checkpoint: {_MODEL}.", show_default=False)
]
BlipWeights = Annotated[
    str | None, typer.Option(metavar="MODEL", help=f"BLIP weights of the original code: {_MODEL}.", show_default=False)
]
CaptionerModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help=f"LLaVA-NeXT or another image-text model: {_MODEL}.", show_default=False),
]
RewriterModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help=f"Llama or another chat model: {_MODEL}.", show_default=False)
]
Wait = Annotated[float, typer.Option("--wait", min=1, help="Seconds that the services may take to start.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' logs here as well.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the addresses as JSON once all are ready.")]


def up(
    *,
    one_process: OneProcess = False,
    data_dir: DataDir = None,
    port: Port = None,
    profile: Profile = None,
    preset: Preset = None,
    embedder_model: EmbedderModel = None,
    blip_weights: BlipWeights = None,
    captioner_model: CaptionerModel = None,
    rewriter_model: RewriterModel = None,
    wait_s: Wait = 180,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Start the services and keep them running. Ctrl-C stops them, letting running calls finish.

    Logs go to DATA_DIR/logs. If a service dies, the others are stopped, its last log lines are shown, and the exit code
    is not 0. A captioner or rewriter that cannot load its model says why, and rounds go on without it.

    Examples:

      warmer up

      warmer up --one-process --data-dir ./data

      warmer up --port 60050 --verbose

      warmer up --profile paper --preset int8 --blip-weights chatir \\
        --captioner-model llava-v1.6-mistral-7b --rewriter-model llama-3.1-8b-instruct
    """
    require_services()
    home = (data_dir or Path(_setting("data_dir", "~/.local/share/warmer"))).expanduser()
    _make_folder(home / "logs")
    models = {
        "profile": profile,
        "preset": preset,
        "embedder_model": embedder_model,
        "blip_weights": blip_weights,
        "captioner_model": captioner_model,
        "rewriter_model": rewriter_model,
    }
    environment = {"WARMER_DATA_DIR": str(home)}
    environment |= {f"WARMER_{name.upper()}": value for name, value in models.items() if value is not None}
    children = _one(home) if one_process else _four(home, port, environment)
    _check_free(children)
    with _stop_signals() as stopped, Stack(children, environment, float(_setting("drain_s", "10"))) as stack:
        tail = LogTail(children, output.note) if verbose else None
        try:
            _run(stack, stopped, wait_s, tail, as_json=as_json)
        finally:
            if tail is not None:
                tail.close()
    if not as_json:
        output.note("stopped")


def _run(stack: Stack, stopped: threading.Event, wait_s: float, tail: LogTail | None, *, as_json: bool) -> None:
    def go_on() -> bool:
        if tail is not None:
            tail.copy()
        return not stopped.wait(0.2)

    problems: dict[str, WarmerError] = {}

    def on_trouble(name: str, error: WarmerError) -> None:
        if name not in _CAN_BE_MISSED:
            raise _named(name, error)
        problems[name] = error
        output.note(f"  {name} does not serve: {error}")

    output.note("starting ...")
    told = lambda child: output.note(f"  {child.name} is ready at {child.target}")  # noqa: E731
    if stack.wait_ready(wait_s, told, go_on, on_trouble):
        _announce(stack, problems, as_json=as_json)
        while go_on():
            stack.check()
    output.note("stopping ...")


def _named(name: str, error: WarmerError) -> WarmerError:
    """The error of a service that nothing works without, with its name."""
    return type(error)(f"{name} cannot serve: {error.message}", reason=error.reason, hint=error.hint)


def _announce(stack: Stack, problems: Mapping[str, WarmerError], *, as_json: bool) -> None:
    targets = {child.name: child.target for child in stack.children}
    main = targets.get("orchestrator") or targets[LOCAL]
    if as_json:
        states = {name: {"reason": error.reason, "message": str(error)} for name, error in problems.items()}
        output.print_json({"target": main, "services": targets, "problems": states})
        sys.stdout.flush()  # whoever started us waits for it
        return
    missing = f"; rounds go on without {' and '.join(problems)}" if problems else ""
    output.note(f"{'the other' if problems else 'all'} services are ready{missing}; Ctrl-C stops them")
    if main != f"localhost:{DEFAULT_PORT}":
        output.note(f"for the other commands: export WARMER_TARGET={main}")
    output.note("next, in another terminal: warmer index my/photos")


def _four(home: Path, port: int | None, environment: dict[str, str]) -> list[Child]:
    children = []
    for offset, name in enumerate(SERVICES):
        number = port + offset if port is not None else int(_setting(f"{name}_port", str(DEFAULT_PORT + offset)))
        target = f"localhost:{number}"
        if port is not None:
            environment[f"WARMER_{name.upper()}_PORT"] = str(number)
            environment[f"WARMER_{name.upper()}_TARGET"] = target
        children.append(Child(name, ["-m", f"services.{name}"], target, home / "logs" / f"{name}.log"))
    return children


def _one(home: Path) -> list[Child]:
    socket = (home / "warmer.sock").absolute()
    if len(os.fsencode(socket)) > MAX_SOCKET_BYTES:
        raise InvalidArgument(
            f"{socket} is too long for a unix socket",
            reason="BAD_SOCKET_PATH",
            hint="Choose a shorter --data-dir, or leave out --one-process.",
        )
    arguments = ["-m", "services.local", "--socket", str(socket)]
    return [Child(LOCAL, arguments, f"unix:{socket}", home / "logs" / "local.log")]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"cannot make the folder {path}: {error.strerror}",
            reason="UNWRITABLE_FOLDER",
            hint="Choose another --data-dir.",
        ) from error


def _check_free(children: list[Child]) -> None:
    for child in children:
        if is_serving(child.target):
            raise FailedPrecondition(
                f"a server is running at {child.target} already",
                reason="ADDRESS_IN_USE",
                hint="Use it, stop it, or choose another --port.",
            )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM; a second one has its usual effect, for who cannot wait for the drain."""
    stopped = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _setting(name: str, default: str) -> str:
    """A setting of the services as they will read it: the environment, then .env, then the default."""
    variable = f"WARMER_{name.upper()}"
    return os.environ.get(variable) or _dotenv().get(variable) or default


def _dotenv() -> dict[str, str]:
    path = Path(".env")
    if not path.is_file():
        return {}
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}
