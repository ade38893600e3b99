"""The dialects of caption tables."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from warmer.bench import datasets
from warmer.errors import InvalidArgument

JPEG = b"\xff\xd8\xff\xe0" + bytes(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / name).write_bytes(JPEG)
    return tmp_path


def texts(folder: Path) -> list[str]:
    return [query.text for query in datasets.load(folder).queries]


def test_kaggles_table_with_bars_and_its_broken_row(folder: Path) -> None:
    (folder / "results.csv").write_text(
        "image_name| comment_number| comment\n"
        '1.jpg| 0| "Stop" , says a sign .\n'
        "1.jpg| 1| Two young guys , outside .\n"
        "2.jpg| 4   A dog runs across the grass .\n"
        "2.jpg| 0| A dog .\n"
    )

    found = datasets.load(folder)

    assert found.name.startswith("flickr30k:")
    assert [(query.query_id, query.text) for query in found.queries] == [
        ("1.jpg#0", '"Stop" , says a sign .'),
        ("1.jpg#1", "Two young guys , outside ."),
        ("2.jpg#0", "A dog ."),
    ]
    assert [(problem.kind, problem.detail) for problem in found.problems] == [
        ("bad-row", "line 4: 2 of 3 fields, without 'comment'")
    ]


def test_commas_with_blanks(folder: Path) -> None:
    (folder / "captions.txt").write_text('image_name, comment_number, comment\n1.jpg, 0, "one, two"\n2.jpg, 0, three\n')

    assert texts(folder) == ["one, two", "three"]


def test_token_file_of_the_authors(folder: Path) -> None:
    (folder / "results_20130124.token").write_text('1.jpg#0\tA "big, dog .\n1.jpg#1\t A cat .\n2.jpg#0\tRain .\n')

    found = datasets.load(folder)

    assert [query.query_id for query in found.queries] == ["1.jpg#0", "1.jpg#1", "2.jpg#0"]
    assert found.queries[0].text == 'A "big, dog .'


def test_byte_order_mark_windows_lines_and_quotes(folder: Path) -> None:
    (folder / "images_captions.csv").write_bytes(
        b'\xef\xbb\xbf"image_name","comment"\r\n1.jpg,"a ""big"", old\r\ndog"\r\n\r\n2.jpg,rain\r\n'
    )

    found = datasets.load(folder)

    assert [query.text for query in found.queries] == ['a "big", old dog', "rain"]
    assert found.problems == ()


def test_utf_16_of_spreadsheets(folder: Path) -> None:
    (folder / "images_captions.csv").write_bytes("image_name\tcomment\r\n1.jpg\tein Bär\r\n".encode("utf-16"))

    assert texts(folder) == ["ein Bär"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_all_scripts_and_in_both_normal_forms(folder: Path, form: str) -> None:
    for name in ("Bär.jpg", "犬.jpg"):
        (folder / "images" / unicodedata.normalize("NFC", name)).write_bytes(JPEG)
    rows = unicodedata.normalize(form, "image_name,comment\nBär.jpg,ein Bär\n犬.jpg,草の上の犬\n")
    (folder / "images_captions.csv").write_text(rows, encoding="utf-8")

    found = datasets.load(folder)

    assert [query.query_id for query in found.queries] == ["Bär.jpg#0", "犬.jpg#0"]


def test_names_that_are_no_utf_8(folder: Path) -> None:
    raw = b"b\xe4r.jpg"
    try:
        (folder / "images" / os.fsdecode(raw)).write_bytes(JPEG)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    (folder / "images_captions.csv").write_bytes(b"image_name,comment\n" + raw + b",a bear\n1.jpg,ein B\xe4r\n")

    found = datasets.load(folder)

    assert [query.query_id for query in found.queries] == ["b%E4r.jpg#0"]
    assert "line 3: the caption of '1.jpg' is not UTF-8" in [problem.detail for problem in found.problems]


def test_a_quotation_mark_that_is_not_closed_takes_no_rows_silently(folder: Path) -> None:
    (folder / "images_captions.csv").write_text('image_name,comment\n1.jpg,"a dog\n2.jpg,rain\n1.jpg,a "cat"\n')

    found = datasets.load(folder)

    assert [problem.detail for problem in found.problems if problem.kind == "bad-row"] == [
        "lines 2 to 4: a quotation mark is not closed, so rows run together"
    ]


def test_a_field_without_end(folder: Path) -> None:
    rows = "1.jpg,word\n" * 20_000
    (folder / "images_captions.csv").write_text(f'image_name,comment\n2.jpg,rain\n1.jpg,"open\n{rows}')

    found = datasets.load(folder)

    assert "rain" in [query.text for query in found.queries]
    assert any(problem.kind == "bad-row" for problem in found.problems)


def test_an_empty_table(folder: Path) -> None:
    (folder / "images_captions.csv").write_bytes(b"")

    with pytest.raises(InvalidArgument) as caught:
        datasets.load(folder, kind="flickr30k")
    assert "(none)" in str(caught.value)


def test_names_of_windows_and_of_the_folder_above(folder: Path) -> None:
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "sub" / "3.jpg").write_bytes(JPEG)
    (folder / "images_captions.csv").write_text(
        "image_name,comment\nsub\\3.jpg,three\nimages/1.jpg,one\n./2.jpg,two\n/etc/passwd,root\n../images/1.jpg,up\n"
    )

    found = datasets.load(folder, images=folder / "images")

    assert [query.query_id for query in found.queries] == ["sub%2F3.jpg#0", "1.jpg#0", "2.jpg#0"]
    assert datasets.counts(found.problems) == {"caption-without-image": 2}
