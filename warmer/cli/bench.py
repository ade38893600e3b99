"""``warmer bench``: what feedback is worth on a dataset. `warmer.bench` does the work, and is imported when it must."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warmer.cli import bench_options as bench
from warmer.cli import options, output
from warmer.cli.progress import interruptible, note_failures, progress
from warmer.errors import FailedPrecondition

if TYPE_CHECKING:
    from warmer.bench.datasets.base import Dataset
    from warmer.bench.runner import Outcome, Plan

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=output.EPILOG,
    help="Measure on a dataset what feedback is worth: prepare it, run hunts, report, compare.",
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


@app.command(epilog=output.EPILOG)
def run(
    dataset: bench.Dataset,
    *,
    strategy: bench.Strategy = "",
    protocol: bench.Protocol = "cumulative",
    rounds: bench.Rounds = 3,
    queries: bench.Queries = None,
    images_subset: bench.Subset = "",
    seed: bench.Seed = 0,
    controls: bench.Controls = True,
    out: bench.Out = None,
    concurrency: bench.Concurrency = 8,
    patience: bench.Patience = 60.0,
    round_timeout: bench.RoundTimeout = 120.0,
    keep_sessions: bench.KeepSessions = False,
    retry_failed: bench.RetryFailed = False,
    user: bench.User = "visual",
    comment: bench.Comment = "none",
    shown: bench.Shown = 10,
    choose_from: bench.ChooseFrom = "displayed",
    marks: bench.Marks = 1,
    error_rate: bench.ErrorRate = 0.0,
    collection: bench.Collection = "",
    kind: bench.Kind = "auto",
    split: bench.Split = "",
    captions: bench.Captions = None,
    images: bench.Images = None,
    frames: bench.Frames = None,
    pick: bench.Pick = "even",
    sample: bench.Sample = None,
    sample_seed: bench.SampleSeed = 0,
    image_column: bench.ImageColumn = "",
    caption_column: bench.CaptionColumn = "",
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Play hunts with simulated people on a dataset, against running services, with controls beside them.

    Stop it at any time: the same command goes on where it was. The same seed gives the same result.

    Example: warmer bench run playground/data/flickr30k --user semantic --comment caption --queries 1000
    """
    with _packages():
        from warmer.bench.datasets import load
        from warmer.bench.runner import Plan
        from warmer.bench.settings import Settings
    settings = Settings(
        strategy=strategy,
        protocol=protocol,
        user=user,
        comment=comment,
        shown=shown,
        choose_from=choose_from,
        rounds=rounds,
        marks=marks,
        error_rate=error_rate,
        queries=queries,
        images_subset=images_subset,
        seed=seed,
        controls=controls,
    )
    data = load(
        dataset,
        kind=kind,
        split=split or None,
        captions=captions,
        images=images,
        frames=frames,
        pick=pick,
        seed=sample_seed,
        sample=sample,
        image_column=image_column,
        caption_column=caption_column,
    )
    _note_problems(data)
    collection = collection or _id_of(data.name)
    plan = Plan(
        data,
        collection,
        settings,
        out or Path("runs") / _run_name(collection, settings.as_json()),
        concurrency=concurrency,
        patience_s=patience,
        keep_sessions=keep_sessions,
        retry_failed=retry_failed,
    )
    with interruptible():
        outcome = asyncio.run(_run(plan, target, embedder, round_timeout, quiet=as_json))
    _say_run(outcome, as_json=as_json)
    if outcome.failed or outcome.not_indexed:
        raise typer.Exit(output.EXIT_PARTIAL)


@app.command(epilog=output.EPILOG)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. (default: report, in the run)")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the images. (default: where they were when the run was made)"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write figures with intervals, plots, and a page with some hunts in pictures, of one run or several.

    Example: warmer bench report runs/flickr30k-fused-semantic
    """
    with _packages():
        from warmer.bench.folder import hunts_of, pictures
        from warmer.bench.report import write_report
    files = [hunts_of(run) for run in runs]
    folder = out or (files[0].parent / "report" if len(files) == 1 else Path("report"))
    written = write_report(files, folder, pictures([file.parent for file in files], images))
    if as_json:
        output.print_json(written)
        return
    output.print_line(written.summary)
    output.note(f"written: {written.page}, {written.markdown}, {written.figures}")


@app.command(epilog=output.EPILOG)
def compare(
    a: RunArgument,
    b: RunArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different datasets all the same.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compare two runs hunt by hunt, with intervals of the difference B - A.

    Example: warmer bench compare runs/flickr30k-rewrite-visual runs/flickr30k-fused-visual
    """
    with _packages():
        from warmer.bench.compare import compare as compared
        from warmer.bench.folder import hunts_of
    comparison = compared(hunts_of(a), hunts_of(b), force=force)
    if as_json:
        output.print_json(comparison.as_dict())
    else:
        output.print_line(comparison.text())


@app.command(epilog=output.EPILOG)
def prepare(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="flickr30k, mscoco or msrvtt.", show_default=False)],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="What was downloaded: folder or archive.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to make.", show_default=False)],
    *,
    split: Annotated[str, typer.Option(help="Only this split. (default: all)")] = "",
    frames: Annotated[int, typer.Option(min=1, help="Of videos: frames of each.")] = 4,
    pick: Annotated[str, typer.Option(help="Of videos: which frames.")] = "even",
    copy: Annotated[bool, typer.Option("--copy", help="Copy photos instead of linking them.")] = False,
    as_json: options.Json = False,
) -> None:
    """Turn an official or Kaggle download into the layout that `warmer bench run` reads, and say what is missing.

    Example: warmer bench prepare flickr30k ~/Downloads/archive.zip playground/data/flickr30k
    """
    with _packages():
        from warmer.bench.prepare import prepare as prepared
    with progress("preparing", quiet=as_json) as show:
        done = prepared(kind, source, target, split=split or None, frames=frames, pick=pick, copy=copy, progress=show)
    if as_json:
        output.print_json(done)
    else:
        for line in done.lines():
            output.print_line(line)
    if not done.complete:
        raise typer.Exit(output.EXIT_PARTIAL)


@contextmanager
def _packages() -> Iterator[None]:
    """Within the block, a missing package of the extra is an error with a hint."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("warmer"):
            raise
        raise FailedPrecondition(
            f"this needs the package {error.name}, which is not installed",
            reason="PACKAGE_NOT_INSTALLED",
            hint="pip install 'warmer[bench]'",
        ) from error


async def _run(plan: Plan, target: str | None, embedder: str | None, round_timeout: float, *, quiet: bool) -> Outcome:
    from warmer import aio
    from warmer.bench.runner import run as run_plan

    async with aio.Client(target, embedder=embedder, round_timeout_s=round_timeout) as client:
        return await run_plan(client, plan, lambda label, noun: progress(label, noun=noun, quiet=quiet))


def _note_problems(data: Dataset) -> None:
    from warmer.bench.datasets import lines

    for line in lines(data.problems):
        output.note(f"problem: {line}")


def _run_name(collection: str, settings: Mapping[str, Any]) -> str:
    """A folder name that tells runs apart by what is most often varied; the header of the run knows everything."""
    parts = [collection, settings["strategy"] or "default", settings["user"]]
    parts += [settings["protocol"]] if settings["protocol"] != "cumulative" else []
    parts += ["comment"] if settings["comment"] != "none" else []
    parts += [f"errors{settings['error_rate']:g}"] if settings["error_rate"] else []
    return "-".join(parts)


def _id_of(name: str) -> str:
    """A collection id like the dataset's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "bench"


def _say_run(outcome: Outcome, *, as_json: bool) -> None:
    from warmer.bench.records import read_hunts

    arms: dict[str, list[int]] = {}
    failures: dict[str, int] = {}
    rounds = int(outcome.header.settings["rounds"]) + 1
    for hunt in read_hunts(outcome.path):
        counts = arms.setdefault(hunt.arm, [0] * (rounds + 1))
        counts[rounds] += 1
        if hunt.found is not None:
            for index in range(hunt.found, rounds):
                counts[index] += 1
        elif hunt.failure:
            failures[hunt.failure] = failures.get(hunt.failure, 0) + 1
    found = {arm: [count / counts[rounds] for count in counts[:rounds]] for arm, counts in arms.items()}
    if as_json:
        output.print_json(
            {name: getattr(outcome, name) for name in ("path", "header", "played", "earlier", "failed", "not_indexed")}
            | {"found": found}
        )
        return
    note_failures(outcome.not_indexed)
    for failure, count in sorted(failures.items(), key=lambda item: -item[1])[:5]:
        output.note(f"failed: {output.counted(count, 'hunt')}: {failure}")
    columns = ("arm", "hunts", *(f"found by round {index}" for index in range(rounds)))
    output.print_table(columns, [(arm, arms[arm][rounds], *shares) for arm, shares in found.items()])
    again = f", {outcome.earlier:,} were there" if outcome.earlier else ""
    output.note(f"{outcome.played:,} queries played{again}; next: warmer bench report {outcome.path.parent}")
