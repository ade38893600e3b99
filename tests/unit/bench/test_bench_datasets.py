"""Every layout of datasets, read from small files; what is wrong with them is said, and nothing is dropped silently."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from warmer._folder import scan_folder
from warmer.bench import datasets
from warmer.bench.datasets.building import MAX_OTHERS, sampled
from warmer.bench.datasets.frames import in_order, picked
from warmer.errors import InvalidArgument

JPEG = b"\xff\xd8\xff\xe0" + bytes(32)


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    return folder


def table(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def document(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def ids(items: Iterable[datasets.Image]) -> list[str]:
    return [item.image_id for item in items]


def refusal(*args: object, **options: object) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        datasets.load(*args, **options)
    assert caught.value.reason == "BAD_DATASET"
    return caught.value


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    photos(tmp_path / "flickr30k_images", "a.jpg", "b.jpg")
    table(tmp_path / "images_captions.csv", "image_name,comment", "a.jpg,a dog", 'a.jpg,"a cat, asleep"', "b.jpg,rain")
    return tmp_path


def test_flickr30k_folder_of_the_reference(flickr: Path) -> None:
    found = datasets.load(flickr)

    assert found.name == f"flickr30k:{flickr.name}"
    assert ids(found.images) == ["a.jpg", "b.jpg"]
    assert [(query.query_id, query.text, query.targets, query.others) for query in found.queries] == [
        ("a.jpg#0", "a dog", ("a.jpg",), ("a cat, asleep",)),
        ("a.jpg#1", "a cat, asleep", ("a.jpg",), ("a dog",)),
        ("b.jpg#0", "rain", ("b.jpg",), ()),
    ]
    assert found.captions == {"a.jpg": ("a dog", "a cat, asleep"), "b.jpg": ("rain",)}
    assert found.groups == {}
    assert found.problems == ()


def test_ids_are_those_of_warmer_index(tmp_path: Path) -> None:
    photos(tmp_path / "images", "sub/ä 100%.jpg", "b.jpg", "no suffix")
    table(tmp_path / "captions.csv", "image,caption", "sub/ä 100%.jpg,one", "b.jpg,two", "no suffix,three")

    found = datasets.load(tmp_path)
    folder = datasets.indexed_folder(found)

    assert folder == tmp_path / "images"
    scan = scan_folder(folder)
    assert [(image.image_id, image.path) for image in found.images] == [(item.id, item.content) for item in scan.images]
    assert {query.targets[0] for query in found.queries} == {"sub%2Fä 100%25.jpg", "b.jpg", "no suffix"}


def test_each_problem_is_said_and_counted(flickr: Path) -> None:
    photos(flickr / "flickr30k_images", "lonely.jpg")
    with (flickr / "images_captions.csv").open("a") as file:
        file.write('gone.jpg,a ghost\na.jpg,"  "\na.jpg,a  dog\na.jpg\nb.jpg,one,two\n,nobody\n')

    found = datasets.load(flickr)

    assert datasets.counts(found.problems) == {
        "bad-row": 3,
        "caption-without-image": 1,
        "empty-caption": 1,
        "duplicate-row": 1,
        "image-without-caption": 1,
    }
    details = {problem.kind: problem.detail for problem in reversed(found.problems)}
    assert details["caption-without-image"] == "line 5: no image 'gone.jpg'"
    assert details["bad-row"].startswith("line 8: ")
    assert details["image-without-caption"] == "lonely.jpg"
    assert [query.query_id for query in found.queries] == ["a.jpg#0", "a.jpg#1", "b.jpg#0"]
    assert "lonely.jpg" in ids(found.images), "it is in the collection, so it is among the images"
    bad, *_ = datasets.lines(found.problems)
    assert bad.startswith("bad-row: 3 (line 8: 1 of 2 fields, without 'comment'; line 9: ")


def test_an_image_name_that_makes_no_id_is_a_problem(flickr: Path) -> None:
    photos(flickr / "flickr30k_images", f"{'x' * 250}/{'y' * 250}/{'z' * 20}.jpg")

    assert [problem.kind for problem in datasets.load(flickr).problems] == ["bad-image-name"]


def test_missing_columns_are_named(flickr: Path) -> None:
    table(flickr / "images_captions.csv", "picture,words", "a.jpg,a dog")

    for options in ({}, {"kind": "flickr30k"}):
        error = refusal(flickr, **options)
        assert "picture" in error.message and "words" in error.message, "those found"
        assert "image_name" in error.message and "comment" in error.message, "those wanted"

    assert len(datasets.load(flickr, image_column="Picture", caption_column="words").queries) == 1


def test_mscoco_folder_of_the_reference(tmp_path: Path) -> None:
    photos(tmp_path / "val2017", *(f"{n:012d}.jpg" for n in range(100)))
    rows = [f"{n // 5:012d}.jpg,caption {n}" for n in range(500)]
    table(tmp_path / "images_captions.csv", "file_name,caption", *rows)

    found = datasets.load(tmp_path, sample=0.1, seed=42)

    assert found.name == f"mscoco:{tmp_path.name}"
    assert len(datasets.load(tmp_path).queries) == 500
    assert len(found.images) == 100, "the collection stays whole"
    # What pandas' sample(frac=.1, random_state=42) draws of 500 rows.
    drawn = np.random.RandomState(42).choice(500, size=50, replace=False)
    assert [query.text for query in found.queries] == [f"caption {n}" for n in sorted(drawn)]
    assert all(len(query.others) == 4 for query in found.queries)
    assert found.queries == datasets.load(tmp_path, sample=0.1, seed=42).queries


def karpathy_entry(filename: str, split: str, *texts: str, **more: object) -> dict[str, object]:
    return {"filename": filename, "split": split, "sentences": [{"raw": text, "tokens": []} for text in texts]} | more


def test_karpathy_flickr30k(tmp_path: Path) -> None:
    photos(tmp_path / "flickr30k-images", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    entries = [
        karpathy_entry("1.jpg", "train", "one"),
        karpathy_entry("2.jpg", "test", "two", "two again"),
        karpathy_entry("3.jpg", "test", "three"),
        karpathy_entry("5.jpg", "test", "gone"),
        {"filename": "6.jpg"},
    ]
    path = document(tmp_path / "dataset_flickr30k.json", {"images": entries, "dataset": "flickr30k"})

    found = datasets.load(tmp_path, split="test")

    assert found.name == "karpathy:dataset_flickr30k/test"
    assert ids(found.images) == ["2.jpg", "3.jpg", "4.jpg"], "without the other split's; 4.jpg belongs to none"
    assert [query.query_id for query in found.queries] == ["2.jpg#0", "2.jpg#1", "3.jpg#0"]
    assert datasets.counts(found.problems) == {
        "bad-row": 1,
        "caption-without-image": 1,
        "image-without-caption": 1,
    }
    assert len(datasets.load(path).queries) == 4
    assert len(datasets.load(path, split="train, test").queries) == 4
    assert "train (1 images)" in refusal(path, split="dev").message


def test_karpathy_coco_with_the_2014_folders_flat_and_with_the_names_of_2017(tmp_path: Path) -> None:
    names = [("train2014", "COCO_train2014_000000000009.jpg", 9), ("val2014", "COCO_val2014_000000000042.jpg", 42)]
    entries = [
        karpathy_entry(name, split, text, filepath=folder, cocoid=number)
        for (folder, name, number), split, text in zip(names, ("restval", "test"), ("food", "a shoe"), strict=True)
    ]
    path = document(tmp_path / "dataset_coco.json", {"images": entries})
    photos(tmp_path / "coco", *(f"{folder}/{name}" for folder, name, _ in names))
    photos(tmp_path / "flat", *(name for _, name, _ in names))
    photos(tmp_path / "new", *(f"{number:012d}.jpg" for *_, number in names))

    by_default = datasets.load(path)

    assert datasets.indexed_folder(by_default) == tmp_path / "coco"
    assert ids(by_default.images) == [f"{folder}%2F{name}" for folder, name, _ in names]
    flat = datasets.load(path, images=tmp_path / "flat", split="test")
    assert [query.targets for query in flat.queries] == [("COCO_val2014_000000000042.jpg",)]
    new = datasets.load(path, images=tmp_path / "new", split="restval")
    assert [query.query_id for query in new.queries] == ["000000000009.jpg#0"]


def test_official_coco(tmp_path: Path) -> None:
    photos(tmp_path / "val2017", "1.jpg", "2.jpg")
    value = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}, {"id": 3, "file_name": "3.jpg"}],
        "annotations": [
            {"image_id": 1, "id": 9, "caption": "a red\nbus "},
            {"image_id": 3, "id": 8, "caption": "gone"},
            {"image_id": 7, "id": 7, "caption": "unknown"},
            {"image_id": 2},
        ],
    }
    document(tmp_path / "annotations" / "captions_val2017.json", value)

    found = datasets.load(tmp_path)

    assert found.name == "coco:val2017"
    assert [(query.query_id, query.text) for query in found.queries] == [("1.jpg#0", "a red bus")]
    assert datasets.counts(found.problems) == {"caption-without-image": 2, "bad-row": 1, "image-without-caption": 1}

    document(tmp_path / "annotations" / "captions_train2017.json", value)
    assert refusal(tmp_path).field == "split"
    assert datasets.load(tmp_path, split="val").name == "coco:val2017"


MSRVTT = {
    "videos": [
        {"video_id": "video1", "split": "train"},
        {"video_id": "video2", "split": "test"},
        {"video_id": "video3", "split": "test"},
    ],
    "sentences": [
        {"video_id": "video1", "caption": "a man sings"},
        {"video_id": "video2", "caption": "a dog swims"},
        {"video_id": "video2", "caption": "a wet dog"},
        {"video_id": "video3", "caption": "cooking"},
    ],
}


@pytest.fixture
def msrvtt(tmp_path: Path) -> Path:
    photos(tmp_path / "frames", "video1/0.jpg", *(f"video2/{n}.jpg" for n in range(12)))
    document(tmp_path / "MSRVTT_data.json", MSRVTT)
    return tmp_path


@pytest.mark.parametrize("separator", ";,")
def test_msrvtt_1k_a(msrvtt: Path, separator: str) -> None:
    rows = ("key;vid_key;video_id;sentence", "ret0;msr2;video2;a dog swims", "ret1;msr3;video3;a cook")
    table(msrvtt / "MSRVTT_JSFUSION_test.csv", *(row.replace(";", separator) for row in rows))

    found = datasets.load(msrvtt)

    assert found.name == "msrvtt:1k-a"
    (query,) = found.queries
    assert (query.query_id, query.text, query.others) == ("video2#0", "a dog swims", ("a wet dog",))
    frames = tuple(f"video2%2F{n}.jpg" for n in range(12))
    assert query.targets == found.groups["video2"] == frames, "in the order of time, and all of them are right"
    assert ids(found.images) == list(frames), "without the frames of other splits"
    assert found.captions[frames[3]] == ("a dog swims", "a wet dog")
    assert datasets.lines(found.problems) == ["caption-without-image: 1 (line 3: no frames of 'video3' in frames/)"]


def test_msrvtt_splits_and_number_of_frames(msrvtt: Path) -> None:
    found = datasets.load(msrvtt, split="test", frames=2)

    assert [query.text for query in found.queries] == ["a dog swims", "a wet dog"]
    assert found.groups == {"video2": ("video2%2F3.jpg", "video2%2F9.jpg")}
    assert datasets.load(msrvtt, split="train").groups == {"video1": ("video1%2F0.jpg",)}
    assert len(datasets.load(msrvtt).queries) == 3
    assert "train (1 videos)" in refusal(msrvtt, split="dev").message
    assert refusal(msrvtt, split="1k-a").reason == "BAD_DATASET"


def test_msrvtt_without_any_frame(tmp_path: Path) -> None:
    path = table(
        tmp_path / "list.csv", "key;vid_key;video_id;sentence", "ret0;msr2;video2;a dog", "ret1;msr3;video3;a cook"
    )

    found = datasets.load(path)

    assert (found.queries, found.images, found.groups) == ((), (), {})
    assert datasets.counts(found.problems) == {"caption-without-image": 2}
    assert len(datasets.lines(found.problems)) == 1
    assert datasets.indexed_folder(found) is None


def test_plain_folder(tmp_path: Path) -> None:
    photos(tmp_path, "sub/a.jpg", "b.png")
    table(
        tmp_path / "mine.tsv", "number\tfile\ttext", "1\t./sub/a.jpg\tone", "2\tb.png\ttwo", "3\t../secret.jpg\tthree"
    )

    found = datasets.load(tmp_path)

    assert found.name == f"folder:{tmp_path.name}"
    assert [query.targets for query in found.queries] == [("sub%2Fa.jpg",), ("b.png",)]
    assert datasets.indexed_folder(found) == tmp_path
    assert datasets.counts(found.problems) == {"caption-without-image": 1}


def test_plain_folder_with_the_images_in_a_folder_of_any_name(tmp_path: Path) -> None:
    photos(tmp_path / "data" / "pictures", "a.jpg")
    photos(tmp_path / "images", "a.jpg")
    table(tmp_path / "data" / "words.csv", "image,caption", "a.jpg,one")

    assert datasets.indexed_folder(datasets.load(tmp_path / "data")) == tmp_path / "data" / "pictures"


def test_nothing_outside_the_folder_is_taken(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "images/a.jpg")
    (tmp_path / "data").mkdir()
    table(tmp_path / "data" / "images_captions.csv", "image_name,comment", "a.jpg,one", "../a.jpg,two")

    assert refusal(tmp_path / "data").field == "images"


def test_captions_and_images_in_other_places(tmp_path: Path) -> None:
    images = photos(tmp_path / "somewhere", "a.jpg")
    captions = table(tmp_path / "else.csv", "image_name,comment", "a.jpg,a dog")
    (tmp_path / "empty").mkdir()

    found = datasets.load(tmp_path / "empty", captions=captions, images=images)

    assert ids(found.images) == ["a.jpg"]
    assert refusal(captions, captions=captions).field == "captions"
    assert refusal(tmp_path, captions=tmp_path / "no.csv").field == "captions"
    assert refusal(tmp_path, images=captions).field == "images"


def test_what_cannot_be_told_is_refused_with_what_was_looked_for(
    flickr: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    error = refusal(tmp_path_factory.mktemp("nothing"))
    for kind in datasets.KINDS:
        assert f"{kind}: " in error.message
    assert "--kind" in error.hint

    document(flickr / "captions_val2017.json", {"images": [], "annotations": []})
    error = refusal(flickr)
    assert "flickr30k, coco" in error.message and error.field == "kind"
    assert datasets.load(flickr, kind="flickr30k").queries
    assert refusal(flickr, kind="flickr").field == "kind"
    assert refusal(flickr, kind="flickr30k", split="test").field == "split"
    assert "does not exist" in refusal(flickr / "nowhere").message


def test_no_images_anywhere_is_refused(tmp_path: Path) -> None:
    table(tmp_path / "images_captions.csv", "image_name,comment", "a.jpg,a dog")

    assert refusal(tmp_path).field == "images"


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"images": 3}', "\udcff"])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dataset_coco.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")

    assert "dataset_coco.json" in refusal(tmp_path).message


@pytest.mark.parametrize(
    "options",
    [{"sample": 0}, {"sample": 1.5}, {"sample": float("nan")}, {"seed": -1}, {"frames": 0}, {"pick": "best"}],
)
def test_bad_options(flickr: Path, options: dict[str, object]) -> None:
    assert refusal(flickr, **options).field == next(iter(options))


def test_a_sample_is_a_share_or_a_number(flickr: Path) -> None:
    assert len(datasets.load(flickr, sample=2).queries) == 2
    assert len(datasets.load(flickr, sample=1).queries) == 1
    assert len(datasets.load(flickr, sample=99).queries) == 3
    assert sampled(10, 0.01, 0) == sampled(10, 1, 0), "never nothing"
    assert sampled(0, 0.5, 0) == []


def test_many_captions_of_one_image_cost_no_square(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg")
    table(tmp_path / "captions.csv", "image,caption", *(f"a.jpg,caption {n}" for n in range(200)))

    queries = datasets.load(tmp_path).queries

    assert len(queries) == 200
    for query in queries:
        assert len(set(query.others)) == MAX_OTHERS
        assert query.text not in query.others


def test_frames_are_picked_evenly() -> None:
    assert picked(12, 2) == [3, 9]
    assert picked(100, 1) == [50]
    assert picked(9, 3, "ends") == [0, 4, 8]
    assert picked(9, 1, "ends") == [4]
    assert picked(9, 2, "first") == [0, 1]
    assert picked(3, 8) == [0, 1, 2]
    assert picked(0, 8) == []
    for pick in ("even", "ends", "first"):
        assert all(len(set(picked(n, 7, pick))) == 7 for n in range(7, 60))
    assert sorted(["f10.jpg", "f9.jpg", "g1", "10", "9"], key=in_order) == ["9", "10", "f9.jpg", "f10.jpg", "g1"]
