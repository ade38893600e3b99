"""Reports written from made-up runs are opened again and read."""

import html.parser
import io
import json
import re

import pytest
from PIL import Image
from run_kit import hunt, played, round_, write

from warmer.bench.metrics import load_run, paired_difference
from warmer.bench.metrics.values import values
from warmer.bench.report import write_report
from warmer.bench.report.markdown import escape
from warmer.bench.report.tables import number

SCRIPT = '<script>alert("1")</script> & "quotes"'


def a_run(path):
    hunts = [
        *played(1, "main", 0.6),
        *played(2, "next-page", 1.0),
        *played(3, "comment-only", 0.8),
        hunt("q900", [(70, None)] * 4, target="never.jpg", text=SCRIPT),
        hunt("q901", [(1, 1)], target="fails.jpg", failure="UNAVAILABLE: the embedder is away"),
    ]
    return write(path, hunts, problems={"caption-without-image": 17}, settings=_settings(note="a|b `c` <i>"))


def _settings(**more):
    return {"strategy": "fused", "user": "semantic", "shown": 10, "rounds": 3} | more


class Page(html.parser.HTMLParser):
    """What a browser would make of it: tags, attributes that load something, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded.extend(value for name, value in attrs if name in ("src", "href", "srcset", "action"))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for name in ("image0.jpg", "never.jpg"):
        Image.new("RGB", (400, 300), "green").save(folder / name)
    (folder / "image1.jpg").write_bytes(b"no picture")
    path = a_run(folder / "semantic.jsonl")

    def images(image_id):
        file = folder / image_id
        return file if file.exists() else None

    return path, write_report(path, folder / "deep" / "out", images)


def test_the_table_holds_the_numbers_with_intervals(written):
    path, report = written
    main, control, _ = load_run(path).series
    text = report.markdown.read_text()
    section = text.split("### Hits@10 by round")[1].split("###")[0]
    cells = [cell.strip() for cell in section.strip().splitlines()[-1].strip("|").split("|")]
    difference = paired_difference(main, control, "hits@10", 3)
    assert cells[0] == "3"
    assert cells[1].startswith(number(values(main)["hits@10"][:, 3].mean()) + " [")
    assert cells[4] == (
        f"{number(difference.value, sign=True)} "
        f"[{number(difference.low, sign=True)}, {number(difference.high, sign=True)}]"
    )
    assert len(cells) == 6
    assert "main and next-page: 2 hunts have no counterpart" in text
    assert "main - comment-only" in text
    for title in ("Recall@10", "MRR", "Median rank", "BRI"):
        assert f"### {title} by round" in text


def test_the_table_says_what_the_run_was_and_what_failed(written):
    text = written[1].markdown.read_text()
    assert "made-up" in text
    assert "compact@1" in text
    assert re.search(r"\| caption-without-image +\| +17 \|", text)
    assert "a\\|b \\`c\\` \\<i\\>" in text
    assert "UNAVAILABLE" in text
    assert "1 (1.6 %)" in text  # failed, of 62
    assert written[1].summary.count("\n") < 10
    assert "Several relevant images" not in text


def test_figures_are_all_there_for_programs(written):
    path, report = written
    found = json.loads(report.figures.read_text())
    (run,) = found["runs"]
    assert run["header"]["problems"] == {"caption-without-image": 17}
    assert [one["arm"] for one in run["series"]] == ["main", "next-page", "comment-only"]
    main = run["series"][0]
    assert (main["hunts"], main["failed"], main["clusters"]) == (62, 1, 22)
    tables = values(load_run(path).series[0])
    for name, rounds in main["metrics"].items():
        if name not in ("median-rank", "rounds-to-success"):
            assert [one["value"] for one in rounds] == pytest.approx(tables[name].mean(axis=0).tolist())
    assert [(one["of"], one["minus"], one["pairs"]) for one in run["differences"]] == [
        ("main", "next-page", 60),
        ("main", "comment-only", 60),
    ]
    assert main["operation"]["failures"] == {"UNAVAILABLE": 1}


def test_plots_are_pictures(written):
    assert [plot.name for plot in written[1].plots] == ["hits-at-10.png", "recall-at-10.png"]
    for plot in written[1].plots:
        with Image.open(plot) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 500
            assert len(set(image.convert("RGB").getcolors(1 << 20))) > 20  # something is drawn
        assert plot.name in written[1].markdown.read_text()


def test_the_page_escapes_what_people_wrote_and_loads_nothing(written):
    text = written[1].page.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert SCRIPT in "".join(page.text)
    assert "<script" not in text.lower()
    assert page.loaded
    assert all(value.startswith("data:image/") for value in page.loaded)
    assert "default-src 'none'" in text


def test_the_page_shows_hunts_found_early_late_and_never(written):
    text = "".join(Page(written[1].page.read_text()).text)
    assert "Found early, in round 1 (3 of " in text
    assert "Found late, in round " in text
    assert "Never found (1 of 1)" in text
    assert "rank 70, not among the hits" in text
    assert "next-page: " in text
    assert "images have no picture that can be read" in text
    assert written[1].page.read_text().count("data:image/jpeg") >= 1  # never.jpg at least


def test_what_was_said_and_marked_is_shown(tmp_path):
    rounds = (
        round_(0, 30, 15),
        round_(
            1, 20, 12, relevant=("other3", "other11"), comment="it <b>rains</b>", rewrite="a wet dog", fell_back=True
        ),
    )
    path = write(tmp_path / "run.jsonl", [hunt("a", [], rounds=rounds), hunt("b", [(9, 2)], found=0)])
    text = "".join(Page(write_report(path, tmp_path / "out").page.read_text()).text)
    assert "comment: it <b>rains</b>" in text
    assert "rewrite: a wet dog (the guard fell back)" in text
    assert "4. marked relevant other3" in text
    assert "12. marked relevant other11" in text  # from beyond the page that was displayed
    assert "2. right for the query t" in text


def test_the_same_run_gives_the_same_report(tmp_path):
    hunts = [*played(1, "main", 0.6, images=5), *played(1, "next-page", 1.0, images=5)]
    reports = []
    for name, lines in (("a", hunts), ("b", hunts[::-1])):
        path = write(tmp_path / name / "run.jsonl", lines)
        reports.append(write_report(path, tmp_path / name / "out"))
    for kind in ("markdown", "page", "figures"):
        assert getattr(reports[0], kind).read_bytes() == getattr(reports[1], kind).read_bytes()
    assert [plot.read_bytes() for plot in reports[0].plots] == [plot.read_bytes() for plot in reports[1].plots]


def test_several_runs_stand_side_by_side(tmp_path):
    paths = [
        write(tmp_path / name / "hunts.jsonl", played(seed, "main", 0.6, images=6, strategy=name))
        for seed, name in enumerate(("fused", "rocchio"))
    ]
    report = write_report(paths, tmp_path / "out")
    text = report.markdown.read_text()
    assert "## fused" in text
    assert "rocchio: main" in report.summary
    assert len(json.loads(report.figures.read_text())["runs"]) == 2


def test_several_relevant_images_have_their_table(tmp_path):
    hunts = [hunt("a", [(9, 2)], targets=("t", "u"), found=0), hunt("b", [(9, 2)], targets=("t", "v"), found=0)]
    text = write_report(write(tmp_path / "run.jsonl", hunts), tmp_path / "out").markdown.read_text()
    section = text.split("### Several relevant images")[1]
    assert "nDCG@10" in section
    assert "mAP" in section
    assert "F1@10" in section


def test_runs_with_little_in_them(tmp_path):
    cases = {
        "no hunts": [],
        "controls alone": played(1, "next-page", 1.0, images=2),
        "all failed": [hunt("a", [], failure="TARGET_NOT_INDEXED: no such image")],
        "one": [hunt("a", [(1, 1)], found=0)],
        "no query in common": [hunt("a", [(1, 1)], found=0), hunt("b", [(1, 1)], arm="next-page", found=0)],
    }
    for name, hunts in cases.items():
        report = write_report(write(tmp_path / f"{name}.jsonl", hunts), tmp_path / name)
        text = report.markdown.read_text()
        assert ("has not played a hunt yet" in text) == (not hunts)
        assert "nan" not in text.lower()
        json.loads(report.figures.read_text())


def test_text_that_no_page_can_hold(tmp_path):
    text = "a \ud800 half, a \x00 and a \x1b[31m colour"
    path = write(tmp_path / "run.jsonl", [])
    with path.open("a", encoding="ascii") as file:
        one = hunt("a", [(1, 1)], found=0, text=text, strategy=text)
        import dataclasses

        file.write(json.dumps(dataclasses.asdict(one)) + "\n")
    report = write_report(path, tmp_path / "out")
    page = report.page.read_text(encoding="utf-8")
    assert "a \ufffd half, a \ufffd and a \ufffd[31m colour" in page


def test_pictures_are_small(written):
    import base64

    sizes = [
        Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).size
        for uri in Page(written[1].page.read_text()).loaded
        if uri.startswith("data:image/jpeg")
    ]
    assert sizes
    assert max(max(size) for size in sizes) <= 132


def test_numbers_as_they_are_written():
    cases = [(0.6149, ".615"), (-0.013, "-.013"), (1.0, "1.000"), (0.0, ".000"), (-0.0001, ".000"), (None, "")]
    assert [number(value) for value, _ in cases] == [text for _, text in cases]
    assert number(0.013, sign=True) == "+.013"
    assert number(0.0, sign=True) == ".000"
    assert [number(value, short=True) for value in (4.0, 4.5, 7.0125, 0.0, -0.5)] == ["4", "4.5", "7", "0", "-.5"]


def test_markdown_is_escaped():
    assert escape("error_rate _this_") == "error_rate \\_this\\_"
    assert escape("a|b\n<c> [d](e) *f* `g`") == "a\\|b \\<c\\> \\[d\\](e) \\*f\\* \\`g\\`"
