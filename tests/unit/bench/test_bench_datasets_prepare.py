"""Downloads as they come become the layouts that are read, and what is missing is said."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from warmer.bench import datasets
from warmer.bench.prepare import prepare, videos
from warmer.errors import FailedPrecondition, InvalidArgument

JPEG = b"\xff\xd8\xff\xe0" + bytes(32)
KAGGLE = (
    "image_name| comment_number| comment\n"
    '1.jpg| 0| "Stop" , says a sign .\n'
    "2.jpg| 0| A cat .\n"
    "2.jpg| 4   A dog runs across the grass .\n"
)
KARPATHY = {
    "images": [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a sign"}], "filepath": "train2014", "cocoid": 1},
        {"filename": "2.jpg", "split": "test", "sentences": [{"raw": "a cat"}], "filepath": "val2014", "cocoid": 2},
    ]
}
COCO = {
    "images": [{"id": 1, "file_name": "000000000001.jpg"}, {"id": 2, "file_name": "000000000002.jpg"}],
    "annotations": [
        {"image_id": 1, "caption": "A red\nbus"},
        {"image_id": 2, "caption": 'A "dog", wet'},
        {"image_id": 5},
    ],
}


def tree(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def zipped(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            item = tarfile.TarInfo(name)
            item.size = len(raw)
            archive.addfile(item, io.BytesIO(raw))
    return path


@pytest.fixture
def kaggle() -> dict[str, bytes | str]:
    return {
        "flickr30k_images/flickr30k_images/1.jpg": JPEG,
        "flickr30k_images/flickr30k_images/2.jpg": JPEG + b"2",
        "flickr30k_images/flickr30k_images/results.csv": KAGGLE,
        "flickr30k_images/results.csv": KAGGLE,
        "__MACOSX/flickr30k_images/._1.jpg": b"junk",
    }


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "folder of archives"])
def test_flickr30k_of_kaggle(tmp_path: Path, kaggle: dict[str, bytes | str], form: str) -> None:
    source = {
        "folder": lambda: tree(tmp_path / "download", kaggle),
        "zip": lambda: zipped(tmp_path / "archive.zip", kaggle),
        "tar": lambda: tarred(tmp_path / "flickr30k.tar.gz", kaggle),
        "folder of archives": lambda: zipped(tmp_path / "download" / "archive.zip", kaggle).parent,
    }[form]()
    target = tmp_path / "playground" / "data" / "flickr30k"

    report = prepare("flickr30k", source, target)

    assert report.complete
    assert dict(report.placed) == {"linked" if form == "folder" else "unpacked": 2}
    assert report.notes == ["results.csv, line 4: the missing separator was put in"]
    assert (target / "images_captions.csv").read_text() == (
        'image_name,comment\n1.jpg,"""Stop"" , says a sign ."\n2.jpg,A cat .\n2.jpg,A dog runs across the grass .\n'
    )
    assert names_in(target) == ["flickr30k_images", "images_captions.csv"]
    assert names_in(target / "flickr30k_images") == ["1.jpg", "2.jpg"]
    assert (target / "flickr30k_images" / "2.jpg").read_bytes() == JPEG + b"2"
    found = datasets.load(target)
    assert (len(found.images), len(found.queries), found.problems) == (2, 3, ())
    assert report.lines() == [
        f"flickr30k in {target}",
        f"images    2 (2 {'linked' if form == 'folder' else 'unpacked'})",
        "captions  3 of 2 images",
        "note: results.csv, line 4: the missing separator was put in",
        f"next: warmer index {target / 'flickr30k_images'} --collection flickr30k",
    ]

    again = prepare("flickr30k", source, target)
    assert dict(again.placed) == {"there": 2}


def test_flickr30k_of_its_authors_and_a_split_of_karpathys(tmp_path: Path) -> None:
    source = tmp_path / "downloads"
    tarred(source / "flickr30k-images.tar.gz", {"flickr30k-images/1.jpg": JPEG, "flickr30k-images/2.jpg": JPEG})
    tarred(source / "flickr30k.tar.gz", {"results_20130124.token": "1.jpg#0\tA sign .\n2.jpg#0\tA cat .\n"})
    zipped(source / "caption_datasets.zip", {"dataset_flickr30k.json": json.dumps(KARPATHY)})
    zipped(source / "holidays.zip", {"3.jpg": JPEG})

    whole = prepare("flickr30k", source, tmp_path / "all")
    test = prepare("flickr30k", source, tmp_path / "test", split="test")

    assert (whole.captions, whole.images, whole.placed.total(), whole.missing) == (2, 2, 2, [])
    assert (test.captions, test.images, test.placed.total(), test.missing) == (1, 1, 1, [])
    assert test.notes == ["1 other images were left out, because no caption names them"]
    found = datasets.load(tmp_path / "test")
    assert [(image.image_id, found.captions[image.image_id]) for image in found.images] == [("2.jpg", ("a cat",))]
    with pytest.raises(InvalidArgument, match="train"):
        prepare("flickr30k", source, tmp_path / "dev", split="dev")


def test_mscoco_official_and_of_kaggle(tmp_path: Path) -> None:
    source = tmp_path / "downloads"
    zipped(source / "annotations_trainval2017.zip", {"annotations/captions_val2017.json": json.dumps(COCO)})
    report = prepare("mscoco", source, tmp_path / "first")

    assert not report.complete
    (missing,) = report.missing
    assert missing.startswith("2 photos (000000000001.jpg, 000000000002.jpg). The photos are in val2017.zip")
    assert "http" not in missing

    zipped(source / "val2017.zip", {"val2017/000000000001.jpg": JPEG, "val2017/000000000002.jpg": JPEG})
    report = prepare("mscoco", source, tmp_path / "first")

    assert report.complete
    assert report.notes == ["captions_val2017.json: bad-row: 1 (annotations[2]: no caption of a known image)"]
    found = datasets.load(tmp_path / "first")
    assert found.name == "mscoco:first"
    assert [query.text for query in found.queries] == ["A red bus", 'A "dog", wet']

    kaggle = {
        "coco2017/annotations/captions_val2017.json": json.dumps(COCO),
        "coco2017/val2017/000000000001.jpg": JPEG,
        "coco2017/val2017/000000000002.jpg": JPEG,
        "coco2017/train2017/000000000003.jpg": JPEG,
    }
    report = prepare("mscoco", zipped(tmp_path / "archive.zip", kaggle), tmp_path / "second")
    assert report.complete
    assert "1 other images were left out, because no caption names them" in report.notes
    assert datasets.load(tmp_path / "second").queries == found.queries


def test_karpathys_coco_from_photos_with_the_names_of_2017(tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"val2017/000000000002.jpg": JPEG, "dataset_coco.json": json.dumps(KARPATHY)})

    report = prepare("mscoco", source, tmp_path / "target", split="test")

    assert report.complete and report.folder == tmp_path / "target" / "images"
    (query,) = datasets.load(tmp_path / "target").queries
    assert query.query_id == "000000000002.jpg#0"


@pytest.mark.parametrize("kind", ["flickr30k", "mscoco", "msrvtt"])
def test_a_download_without_captions(tmp_path: Path, kind: str) -> None:
    source = tree(tmp_path / "source", {"1.jpg": JPEG})

    report = prepare(kind, source, tmp_path / "target")

    assert not report.complete
    assert report.lines()[-1].startswith("missing: the caption file. ")
    assert not (tmp_path / "target").exists()
    if kind != "msrvtt":
        report = prepare(kind, source, tmp_path / "target", split="test")
        assert report.missing[0].startswith("the split file dataset_*.json. ")


def test_nothing_is_written_outside_the_target(tmp_path: Path) -> None:
    evil = {"../../1.jpg": JPEG, "/abs/2.jpg": JPEG, "../results.csv": KAGGLE, "..\\..\\1.jpg": JPEG}
    source = zipped(tmp_path / "in" / "archive.zip", evil)

    report = prepare("flickr30k", source, tmp_path / "in" / "target")

    assert report.complete
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == {
        "in/archive.zip",
        "in/target/images_captions.csv",
        "in/target/flickr30k_images/1.jpg",
        "in/target/flickr30k_images/2.jpg",
    }


def test_links_in_archives_are_no_files(tmp_path: Path) -> None:
    secret = tree(tmp_path, {"secret.txt": "secret"}) / "secret.txt"
    path = tarred(tmp_path / "flickr30k.tar.gz", {"results.csv": KAGGLE, "2.jpg": JPEG})
    with tarfile.open(tmp_path / "flickr.tar", "w") as archive:
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE)):
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, str(secret)
            archive.addfile(item)
    with tarfile.open(path) as first, tarfile.open(tmp_path / "flickr.tar", "a") as archive:
        archive.addfile(first.getmember("results.csv"), first.extractfile("results.csv"))

    report = prepare("flickr30k", tmp_path / "flickr.tar", tmp_path / "target")

    assert report.placed.total() == 0
    assert report.missing[0].startswith("2 photos (1.jpg, 2.jpg). ")


@pytest.mark.parametrize("name", ["..", "a/..", ""])
def test_image_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    source = tree(
        tmp_path / "source", {"results.csv": f"image_name|comment\n{name}|a dog\n1.jpg|a cat\n", "1.jpg": JPEG}
    )

    if name:
        with pytest.raises(InvalidArgument, match="no name of an image"):
            prepare("flickr30k", source, tmp_path / "target")
    else:
        report = prepare("flickr30k", source, tmp_path / "target")
        assert report.notes == ["results.csv: bad-row: 1 (line 2: no 'image_name')"]


def test_damaged_archives(tmp_path: Path, kaggle: dict[str, bytes | str]) -> None:
    big = kaggle | {"flickr30k_images/flickr30k_images/2.jpg": JPEG + os.urandom(100_000)}
    whole = zipped(tmp_path / "archive.zip", big).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-40])
    place = whole.index(b"flickr30k_images/flickr30k_images/2.jpg") + 1000
    (tmp_path / "flipped.zip").write_bytes(whole[:place] + b"damage" + whole[place + 6 :])
    (tmp_path / "cut.tar.gz").write_bytes(tarred(tmp_path / "flickr30k.tar.gz", big).read_bytes()[:50_000])
    (tmp_path / "text.zip").write_text("<html>please log in</html>")

    for name in ("cut.zip", "flipped.zip", "cut.tar.gz", "text.zip"):
        with pytest.raises(InvalidArgument) as caught:
            prepare("flickr30k", tmp_path / name, tmp_path / "target" / name)
        assert caught.value.reason == "BAD_DATASET"
        assert name in caught.value.message
        assert "complete" in caught.value.hint
    left = {path.name for path in (tmp_path / "target").rglob("*") if path.is_file()}
    assert left <= {"1.jpg"}, "no half photo is left"


def test_other_files_in_the_folder_of_images_are_pointed_out(tmp_path: Path, kaggle: dict[str, bytes | str]) -> None:
    source = tree(tmp_path / "source", kaggle)
    tree(tmp_path / "target", {"flickr30k_images/old.jpg": JPEG})

    report = prepare("flickr30k", source, tmp_path / "target")

    assert "1 further files lie in flickr30k_images/ and would be indexed as well" in report.notes


def test_the_target_may_lie_in_the_source_and_copies_may_be_wanted(
    tmp_path: Path, kaggle: dict[str, bytes | str]
) -> None:
    source = tree(tmp_path, kaggle)
    target = tmp_path / "playground"

    first = prepare("flickr30k", source, target, copy=True)
    second = prepare("flickr30k", source, target, copy=True)

    assert (dict(first.placed), dict(second.placed)) == ({"copied": 2}, {"there": 2})
    assert (target / "flickr30k_images" / "1.jpg").stat().st_nlink == 1
    assert second.missing == [] and not any("twice" in note for note in second.notes)
    for bad in (source, source / "flickr30k_images"):
        with pytest.raises(InvalidArgument) as caught:
            prepare("flickr30k", bad, source)
        assert caught.value.field == "target"


def test_bad_arguments(tmp_path: Path) -> None:
    for field, options in (
        ("kind", {"kind": "imagenet"}),
        ("frames", {"kind": "msrvtt", "frames": 0}),
        ("pick", {"kind": "msrvtt", "pick": "best"}),
        ("source", {"kind": "mscoco"}),
    ):
        kind = options.pop("kind")
        with pytest.raises(InvalidArgument) as caught:
            prepare(kind, tmp_path / "nowhere", tmp_path / "target", **options)
        assert caught.value.field == field


def test_a_target_that_cannot_be_written(tmp_path: Path, kaggle: dict[str, bytes | str]) -> None:
    source = tree(tmp_path / "source", kaggle)
    (tmp_path / "target").write_text("a file")

    with pytest.raises(FailedPrecondition) as caught:
        prepare("flickr30k", source, tmp_path / "target")
    assert caught.value.reason == "CANNOT_WRITE"


MSRVTT_LIST = "key;vid_key;video_id;sentence\nret0;msr1;video1;a man sings\nret1;msr2;video2;a dog swims\n"
MSRVTT_DATA = {
    "videos": [{"video_id": f"video{n}", "split": "test"} for n in (1, 2, 3)],
    "sentences": [{"video_id": f"video{n}", "caption": f"sentence {n}"} for n in (1, 2, 3)],
}


def film(path: Path, frames: int) -> Path:
    """A film whose frame n is grey of the value 4 n."""
    av = pytest.importorskip("av", reason="PyAV, which makes the films of this test, is not installed")
    numpy = pytest.importorskip("numpy")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for n in range(frames):
            image = numpy.full((64, 64, 3), 4 * n, numpy.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(path: Path) -> float:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with image.open(path) as opened:
        data = opened.convert("L").resize((1, 1)).tobytes()
    return data[0] / 4


def decoders() -> list[str]:
    return [name for name in ("av", "cv2") if videos.importlib.util.find_spec(name)]


@pytest.mark.parametrize("module", ["av", "cv2"])
def test_frames_are_taken_evenly(tmp_path: Path, module: str) -> None:
    if module not in decoders():
        pytest.skip(f"the decoder {module} is not installed")
    path = film(tmp_path / "film.mp4", 48)
    target = tmp_path / "frames"
    target.mkdir()

    assert videos.sample(path, target, 4, "even", module) == 4

    names = names_in(target)
    assert names == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]
    for name, number in zip(names, (6, 18, 30, 42), strict=True):
        assert abs(grey(target / name) - number) < 1.5
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(videos.Unreadable):
        videos.sample(tmp_path / "broken.mp4", target, 4, "even", module)


def test_msrvtt_from_videos(tmp_path: Path) -> None:
    film(tmp_path / "source" / "videos" / "all" / "video1.mp4", 20)
    tree(tmp_path / "source", {"videos/all/video2.mp4": b"broken", "videos/all/video7.mp4": b"another"})
    zipped(
        tmp_path / "source" / "msrvtt_data.zip",
        {"msrvtt_data/MSRVTT_JSFUSION_test.csv": MSRVTT_LIST, "msrvtt_data/MSRVTT_data.json": json.dumps(MSRVTT_DATA)},
    )
    target = tmp_path / "target"

    report = prepare("msrvtt", tmp_path / "source", target, frames=3)

    assert dict(report.placed) == {"sampled": 3}
    assert (report.captions, report.images) == (2, 2)
    (missing,) = report.missing
    assert missing.startswith("1 videos that can be read (video2.mp4: ")
    assert names_in(target) == ["MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json", "frames"]
    found = datasets.load(target)
    assert found.groups == {"video1": ("video1%2F000.jpg", "video1%2F001.jpg", "video1%2F002.jpg")}
    assert [(query.text, query.others) for query in found.queries] == [("a man sings", ("sentence 1",))]

    assert dict(prepare("msrvtt", tmp_path / "source", target, frames=3).placed) == {"there": 3}
    assert dict(prepare("msrvtt", tmp_path / "source", target, frames=2).placed) == {"sampled": 2}
    assert names_in(target / "frames" / "video1") == ["000.jpg", "001.jpg"]
    split = prepare("msrvtt", tmp_path / "source", tmp_path / "test", split="test")
    assert split.images == 3 and any(item.startswith("1 videos (video3)") for item in split.missing)


def test_msrvtt_from_frames_of_another_tool(tmp_path: Path) -> None:
    frames = {f"frames/video1/{n}.jpg": JPEG + bytes([n]) for n in range(12)} | {"frames/video9/0.jpg": JPEG}
    source = zipped(tmp_path / "msrvtt.zip", frames | {"MSRVTT_JSFUSION_test.csv": MSRVTT_LIST})

    report = prepare("msrvtt", source, tmp_path / "target", frames=2, pick="ends")

    assert dict(report.placed) == {"unpacked": 2}
    assert names_in(tmp_path / "target" / "frames" / "video1") == ["0.jpg", "11.jpg"]
    assert report.missing[0].startswith("1 videos (video2). The videos are in MSRVTT.zip")


def test_msrvtt_in_two_files_and_with_ids_that_are_no_names(tmp_path: Path) -> None:
    data = [
        {"videos": [{"video_id": video, "split": split}], "sentences": [{"video_id": video, "caption": "a dog"}]}
        for video, split in (("video1", "train"), ("../video2", "test"))
    ]
    files = {
        "train_val_videodatainfo.json": json.dumps(data[0]),
        "test_videodatainfo.json": json.dumps(data[1]),
        "video1/0.jpg": JPEG,
        "video2/0.jpg": JPEG,
    }

    report = prepare("msrvtt", tree(tmp_path / "source", files), tmp_path / "target")

    assert dict(report.placed) == {"linked": 1}
    assert report.missing == ["1 videos whose ids are no names of a folder ('../video2'). Is the caption file damaged?"]
    assert names_in(tmp_path / "target" / "frames") == ["video1"]


def test_photos_that_are_too_large_are_said(
    tmp_path: Path, kaggle: dict[str, bytes | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmer.bench.prepare.photos._MAX_IMAGE_BYTES", len(JPEG))

    report = prepare("flickr30k", tree(tmp_path / "source", kaggle), tmp_path / "target")

    assert report.placed.total() == 1
    assert "1 photos of over 0 MiB were left out" in report.notes
    assert report.missing[0].startswith("1 photos (2.jpg). ")


def test_msrvtt_without_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "decoder", lambda: None)
    source = tree(
        tmp_path / "source", {"video1.mp4": b"film", "video2.avi": b"film", "MSRVTT_JSFUSION_test.csv": MSRVTT_LIST}
    )

    report = prepare("msrvtt", source, tmp_path / "target")

    assert report.missing == ["a decoder for 2 videos: install PyAV (the package av) or OpenCV."]
    assert len(datasets.load(tmp_path / "target").problems) == 2
