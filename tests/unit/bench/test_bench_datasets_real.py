"""The real files of ../shared/data, and large ones, which must load in seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from warmer._folder import scan_folder
from warmer.bench import datasets
from warmer.bench.datasets.base import Problem
from warmer.bench.datasets.building import Builder
from warmer.bench.datasets.request import Request
from warmer.bench.datasets.tables import Wanted, read_rows, require_columns, sniff
from warmer.names import check_image_id

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def real(part: str) -> Path:
    path = DATA / part
    if not path.exists():
        pytest.skip(f"the development data (../shared/data/{part}) is not here")
    return path


def test_flickr8k_val() -> None:
    found = datasets.load(real("flickr8k/val"))

    assert (len(found.images), len(found.queries), found.problems) == (1000, 5000, ())
    assert all(len(query.others) == 4 for query in found.queries)
    assert found.name == "flickr30k:val"
    folder = datasets.indexed_folder(found)
    assert folder == DATA / "flickr8k/val/images"
    assert [item.id for item in scan_folder(folder).images] == [image.image_id for image in found.images]


def test_flickr8k_train_has_nine_captions_twice() -> None:
    found = datasets.load(real("flickr8k/train"))

    assert (len(found.images), len(found.queries)) == (6000, 29_991)
    assert datasets.counts(found.problems) == {"duplicate-row": 9}


def test_coco_val2017_with_sixty_of_the_images() -> None:
    found = datasets.load(real("coco"))

    assert found.name == "coco:val2017"
    assert len(found.images) == 60
    assert {query.targets[0] for query in found.queries} == {image.image_id for image in found.images}
    assert len(found.queries) + len(found.problems) == 25_014
    assert set(datasets.counts(found.problems)) == {"caption-without-image"}
    assert len(datasets.lines(found.problems)) == 1


def test_msrvtt_without_videos_is_said_once() -> None:
    found = datasets.load(real("msrvtt"))

    assert (found.queries, found.images) == ((), ())
    assert datasets.counts(found.problems) == {"caption-without-image": 1000}
    (line,) = datasets.lines(found.problems)
    assert line.startswith("caption-without-image: 1,000 (line 2: no frames of 'video9770' in frames/")


def test_155_000_rows_are_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = (
        f"{n // 5}.jpg| {n % 5}| A caption , number {n} , of ordinary length for a photo .\n" for n in range(158_915)
    )
    path.write_text("image_name| comment_number| comment\n" + "".join(rows))
    builder = Builder(Request(path))
    images = [datasets.Image(check_image_id(f"{n}.jpg"), Path(f"{n}.jpg")) for n in range(31_783)]
    begin = time.process_time()

    form = sniff(path)
    for row in read_rows(path, form, require_columns(path, form, Wanted(("image_name",), ("comment",)))):
        assert not isinstance(row, Problem)
        builder.caption(row.image, row.caption, f"line {row.line}")
    found = builder.build("large", images)

    assert len(found.queries) == 158_915
    assert time.process_time() - begin < 20


def test_616_000_captions_of_coco_without_images_are_counted_in_seconds(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(123_287)]
    annotations = [{"image_id": n % 123_287, "caption": f"caption {n}"} for n in range(616_435)]
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    folder = tmp_path / "train2017"
    folder.mkdir()
    (folder / "000000000000.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    begin = time.process_time()

    found = datasets.load(path)

    assert len(found.queries) == 5
    assert datasets.counts(found.problems) == {"caption-without-image": 616_430}
    assert time.process_time() - begin < 30
