"""The options of ``warmer bench run``, which are many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_DATA, _PERSON, _PLAY = "Dataset", "Simulated person", "Run"

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset, or its caption file.")]
Kind = Annotated[
    str, typer.Option(help="Layout of the dataset; auto looks at names and columns.", rich_help_panel=_DATA)
]
Split = Annotated[str, typer.Option(help="Split, of layouts that have splits. (default: all)", rich_help_panel=_DATA)]
Captions = Annotated[Path | None, typer.Option(help="Caption file, if it is not in the folder.", rich_help_panel=_DATA)]
Images = Annotated[
    Path | None, typer.Option(help="Folder of the images, if it is not in the folder.", rich_help_panel=_DATA)
]
Frames = Annotated[
    int | None, typer.Option(min=1, help="Of videos: frames of each. (default: all)", rich_help_panel=_DATA)
]
Pick = Annotated[str, typer.Option(help="Of videos: which frames.", rich_help_panel=_DATA)]
Sample = Annotated[
    float | None,
    typer.Option(
        help="Share of the dataset's rows (below 1), or number, before anything else, by --sample-seed: the "
        "reference takes .1 and 42 of MSCOCO.",
        rich_help_panel=_DATA,
    ),
]
SampleSeed = Annotated[int, typer.Option(help="Seed of --sample.", rich_help_panel=_DATA)]
ImageColumn = Annotated[str, typer.Option(help="Column of image names, if unusual.", rich_help_panel=_DATA)]
CaptionColumn = Annotated[str, typer.Option(help="Column of captions, if unusual.", rich_help_panel=_DATA)]
Collection = Annotated[
    str,
    typer.Option(
        "--collection",
        "-c",
        help="Collection that holds the images; missing ones are added first. (default: the dataset's name)",
        rich_help_panel=_DATA,
    ),
]

User = Annotated[
    str,
    typer.Option(
        help="What the person finds alike: visual (the retrieval embedding, as the reference), semantic (human "
        "captions), labels (ground truth, for several relevant images).",
        rich_help_panel=_PERSON,
    ),
]
Comment = Annotated[
    str,
    typer.Option(
        help="caption: with each round another human caption of the target; or none.", rich_help_panel=_PERSON
    ),
]
Shown = Annotated[
    int, typer.Option(help="Hits that the person looks at; the target among them is found.", rich_help_panel=_PERSON)
]
ChooseFrom = Annotated[
    str,
    typer.Option(
        help="Marks are taken from what was displayed, or from the pool of the first 50 hits.", rich_help_panel=_PERSON
    ),
]
Marks = Annotated[int, typer.Option(help="Most images to mark in a round.", rich_help_panel=_PERSON)]
ErrorRate = Annotated[
    float, typer.Option(help="Share of rounds in which other images are marked, 0 to 1.", rich_help_panel=_PERSON)
]

Strategy = Annotated[
    str, typer.Option("--strategy", "-s", help="How feedback is used. (default: the server's)", rich_help_panel=_PLAY)
]
Protocol = Annotated[
    str,
    typer.Option(
        help="cumulative: until the find or the last round; reference: the reference implementation's, with its "
        "early stops.",
        rich_help_panel=_PLAY,
    ),
]
Rounds = Annotated[int, typer.Option(help="Rounds of feedback.", rich_help_panel=_PLAY)]
Queries = Annotated[
    int | None,
    typer.Option(min=1, help="Number of queries, a sample by the seed. (default: all)", rich_help_panel=_PLAY),
]
Subset = Annotated[
    str,
    typer.Option(
        help="Only the queries of some images: half:0 or half:1 (tune on one, report on the other), even, odd, or a "
        "file of image ids. All images are searched in any case.",
        rich_help_panel=_PLAY,
    ),
]
Seed = Annotated[int, typer.Option(help="Of sample, comments and errors.", rich_help_panel=_PLAY)]
Controls = Annotated[
    bool, typer.Option("--controls/--no-controls", help="Play the controls beside the hunts.", rich_help_panel=_PLAY)
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of the run. (default: runs/ and a name of the settings)", rich_help_panel=_PLAY
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Queries played at once.", rich_help_panel=_PLAY)]
Patience = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for a service that is away.", rich_help_panel=_PLAY)
]
RoundTimeout = Annotated[float, typer.Option(min=1, help="Seconds that a round may take.", rich_help_panel=_PLAY)]
KeepSessions = Annotated[
    bool, typer.Option("--keep-sessions", help="Leave the sessions in the services.", rich_help_panel=_PLAY)
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Play queries again whose hunts failed.", rich_help_panel=_PLAY)
]
