"""What the layouts with a table have in common: find the table, find the images, join them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset, Problem
from warmer.bench.datasets.building import Builder
from warmer.bench.datasets.images import ImageFolder, choose_root, subfolders
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.datasets.request import Request
from warmer.bench.datasets.tables import Format, Row, Wanted, names_of, read_rows, require_columns, sniff

ANY = "*"  # among the folders of images: every folder directly below


@dataclass(frozen=True)
class TableLayout:
    """A folder with one table of captions and one folder of images.

    `exact` are the columns by which the layout is recognised, `wanted` those that do when it is asked for by name.
    """

    kind: str
    tables: tuple[str, ...]  # patterns of file names, the usual one first
    table_folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    exact: Wanted
    wanted: Wanted
    looked_for: str
    has_splits: bool = False

    def fits(self, request: Request) -> bool:
        """Whether the files look like this layout."""
        return self._find(request, self._named(request, self.exact)) is not None

    def read(self, request: Request) -> Dataset:
        """Reads it. Raises InvalidArgument (``BAD_DATASET``)."""
        wanted = self._named(request, self.wanted)
        table, form = self._require(request, wanted)
        rows: list[Row] = []
        builder = Builder(request)
        for item in read_rows(table, form, require_columns(table, form, wanted)):
            if isinstance(item, Problem):
                builder.problems.append(item)
            else:
                rows.append(item)
        folder = ImageFolder(image_root(request, table, self.image_folders, names_of(rows), self.kind))
        builder.problems.extend(folder.problems)
        join(builder, folder, rows)
        return builder.build(f"{self.kind}:{request.title}", folder.images)

    def _require(self, request: Request, wanted: Wanted) -> tuple[Path, Format]:
        tables = self._candidates(request)
        if not tables:
            raise bad_dataset(
                f"no caption file in {str(request.base)!r}: looked for {', '.join(self.tables)}",
                "Name it (--captions).",
            )
        return self._find(request, wanted) or (tables[0], sniff(tables[0]))

    def _find(self, request: Request, wanted: Wanted) -> tuple[Path, Format] | None:
        for table in self._candidates(request):
            form = sniff(table)
            if form.columns(wanted) is not None:
                return table, form
        return None

    def _candidates(self, request: Request) -> Sequence[Path]:
        if request.given is not None:
            return [] if request.is_json(request.given) else [request.given]
        return request.find(self.tables, self.table_folders)

    def _named(self, request: Request, wanted: Wanted) -> Wanted:
        return Wanted(
            (request.image_column,) if request.image_column else wanted.images,
            (request.caption_column,) if request.caption_column else wanted.captions,
        )


def image_root(
    request: Request, table: Path, folders: Sequence[str], names: Iterable[Sequence[str]], kind: str
) -> Path:
    """The folder of the images: the one that was named, or the first of `folders` that holds some of them."""
    if request.images is not None:
        return request.images
    root = choose_root(_places(request, table, folders), names)
    if root is None:
        raise bad_dataset(
            f"no images of {kind} in {str(request.base)!r}: looked in {', '.join(folders)}",
            "Name the folder of the images (--images).",
            field="images",
        )
    return root


def _places(request: Request, table: Path, folders: Sequence[str]) -> Iterator[Path]:
    for place in dict.fromkeys([request.base, table.parent]):
        for folder in folders:
            yield from [place / folder] if folder != ANY else subfolders(place)
    if table.parent.name.casefold() == "annotations":  # MSCOCO's own name; the images lie beside it
        yield from (table.parent.parent / folder for folder in folders if folder not in (".", ANY))


def join(builder: Builder, folder: ImageFolder, rows: Sequence[Row]) -> None:
    """Gives each row's caption to its image, or says that the image is missing."""
    for row in rows:
        image = folder.find(row.image)
        if image is None:
            builder.problems.note(problems.CAPTION_WITHOUT_IMAGE, f"line {row.line}: no image {row.image!r}")
        else:
            builder.caption(image.image_id, row.caption, f"line {row.line}")
