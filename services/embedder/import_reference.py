"""Takes an index of the reference implementation into a collection: `python -m services.embedder.import_reference`.

`warmer import-reference` runs this. It is a client of the embedder, as any other; it lives here because it reads FAISS
indexes, which the light command line cannot.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from services.embedder.reference_index import ReferenceIndex, find_image, read_id_map, unit
from warmer.cli import output
from warmer.cli.index import ensure_collection
from warmer.cli.progress import note_failures, progress
from warmer.client import Client
from warmer.errors import FailedPrecondition, InvalidArgument, NotFound, WarmerError
from warmer.names import image_id_from_path
from warmer.types import AddResult, Collection, NewImage

_SAMPLE = 8
_LEAST_COSINE = 0.95  # number formats and JPEG decoders differ a little; models differ altogether


@dataclass
class Report:
    """What came of it. `unnamed` is the number of vectors that the map has no image for; `normalised` of vectors
    that were not of length 1."""

    collection: str
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    unnamed: int = 0
    normalised: int = 0
    failures: list[AddResult] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, result: AddResult) -> None:
        """Takes a result in."""
        if result.outcome == "failed":
            self.failures.append(result)
        else:
            setattr(self, result.outcome, getattr(self, result.outcome) + 1)


class Importer:
    """Adds the images of a reference index with their vectors to a collection of the same model."""

    def __init__(self, client: Client, collection: str, index: Path, ids: Path, images: Path) -> None:
        """Reads both files. Raises InvalidArgument."""
        self._client = client
        self._index = ReferenceIndex(index)
        rows = self._index.rows()
        names = read_id_map(ids)
        unknown = [number for number in names if number not in rows]
        if unknown:
            raise InvalidArgument(
                f"{ids} names {len(unknown):,} numbers that are not in {index}, such as {unknown[0]}",
                reason="BAD_ID_MAP",
                hint="Give an index and a map that were written together.",
            )
        self._named = [(rows[number], name) for number, name in sorted(names.items())]
        self._images = images
        self._model = ""
        self.report = Report(collection, unnamed=len(rows) - len(names))

    def run(self, model: str, *, quiet: bool) -> Report:
        """Adds all; `model` is who made the vectors, '' to find out by a sample. Raises WarmerError."""
        began = time.monotonic()
        ensure_collection(self._client, self.report.collection)
        self._check(self._client.collections.get(self.report.collection), model)
        with progress("importing", quiet=quiet) as show:
            for done, result in enumerate(self._results(), 1):
                self.report.count(result)
                show(done, len(self._named))
        self.report.seconds = time.monotonic() - began
        return self.report

    def _results(self) -> Iterator[AddResult]:
        missing: list[AddResult] = []
        yield from self._client.collections.add_images(self.report.collection, self._new(missing))
        yield from missing

    def _new(self, missing: list[AddResult]) -> Iterator[NewImage]:
        """The images to add; those that cannot be go into `missing`. Runs on the thread that sends."""
        for name, file, vector in self._items():
            try:
                yield self._image(file, vector)
            except WarmerError as error:
                missing.append(AddResult(name, "failed", source=name, error=error))

    def _image(self, file: Path | None, vector: np.ndarray | None) -> NewImage:
        if file is None:
            raise NotFound("there is no such file", reason="MISSING_FILE", hint="Is --images the folder?")
        if vector is None:
            raise InvalidArgument("its vector is zero or not finite", reason="BAD_VECTOR", hint="Index it anew.")
        source = str(file).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        id = image_id_from_path(file.relative_to(self._images))
        return NewImage(id, file, source=source, vector=vector, vector_model=self._model)

    def _items(self) -> Iterator[tuple[str, Path | None, np.ndarray | None]]:
        """Name, file and unit vector of each image; None for what is missing."""
        vectors = self._index.vectors(row for row, _ in self._named)
        for (_, name), vector in zip(self._named, vectors, strict=True):
            right = unit(vector)
            self.report.normalised += int(right is not None and not np.allclose(right, vector, atol=1e-3))
            yield name, find_image(self._images, name), right

    def _check(self, collection: Collection, model: str) -> None:
        """Raises FailedPrecondition when the vectors cannot be the collection's."""
        if self._index.dimensions != collection.dimensions:
            raise FailedPrecondition(
                f"the index has {self._index.dimensions} dimensions, {collection.model} has {collection.dimensions}",
                reason="DIMENSION_MISMATCH",
                hint="Start the embedder with the model that made the index.",
            )
        if model and model != collection.model:
            raise _other_model(f"the vectors are of {model}, the collection is of {collection.model}")
        if not model:
            self._check_sample(collection)
        self._model = collection.model
        self.report.normalised = 0

    def _check_sample(self, collection: Collection) -> None:
        """Embeds a few images, to see whether the server's model makes the same vectors of them."""
        usable = ((file, vector) for _, file, vector in self._items() if file is not None and vector is not None)
        sample = list(islice(usable, _SAMPLE))
        embedded = self._client.embed_images(file for file, _ in sample)
        cosines = [float(e.vector @ v) for e, (_, v) in zip(embedded, sample, strict=True) if e.vector is not None]
        if cosines and float(np.median(cosines)) < _LEAST_COSINE:
            raise _other_model(
                f"the index was made by another model than {collection.model}: the same images have a cosine of "
                f"{float(np.median(cosines)):.3f}"
            )


def _other_model(message: str) -> FailedPrecondition:
    hint = "Start the embedder with the model that made the index, or index the images anew."
    return FailedPrecondition(message, reason="MODEL_MISMATCH", hint=hint)


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="warmer import-reference", description=__doc__)
    parser.add_argument("collection")
    for name in ("--index", "--ids", "--images"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", default="", help="identity of the model that made the vectors")
    parser.add_argument("--target")
    parser.add_argument("--embedder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    try:
        with Client(args.target, embedder=args.embedder) as client:
            report = Importer(client, args.collection, args.index, args.ids, args.images).run(
                args.model, quiet=args.json
            )
    except WarmerError as error:
        output.print_error(error)
        return output.exit_code(error)
    if args.json:
        output.print_json(report)
    else:
        _summarise(report)
    return output.EXIT_PARTIAL if report.failures else output.EXIT_OK


def _summarise(report: Report) -> None:
    count = report.added + report.replaced + report.unchanged
    output.print_line(f"{output.counted(count, 'image')} of the reference in {report.seconds:.1f} s")
    output.print_facts(
        {
            "added": report.added,
            "replaced": report.replaced,
            "unchanged": report.unchanged,
            "failed": len(report.failures),
            "normalised": report.normalised or "",
            "vectors without image": report.unnamed or "",
        }
    )
    note_failures(report.failures)


if __name__ == "__main__":
    sys.exit(main())
