"""The HTML report: the tables, the plots, and some hunts with their pictures, in one file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from warmer.bench.metrics import Run, Series
from warmer.bench.records import Hunt, Round
from warmer.bench.report.elements import Content, Element, document, element, extend
from warmer.bench.report.examples import Group, choose
from warmer.bench.report.pictures import Pictures, png_uri
from warmer.bench.report.tables import Section, Table

_HUNTS_OF_A_KIND = 3
_MOST_PICTURES = 10  # of a round; the reference protocol displays 50
_MOST_TARGETS = 4
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: .8rem 0; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
img.plot { max-width: 48%; height: auto }
article { border: 1px solid #ccc; border-radius: 6px; padding: .4rem 1rem 1rem; margin: 1rem 0 }
.round { border-top: 1px solid #eee; padding-top: .4rem; margin-top: .6rem }
.pictures { display: flex; flex-wrap: wrap; gap: 8px }
figure { margin: 0; width: 140px; font-size: 11px; overflow-wrap: anywhere }
figure img, .none { width: 132px; height: 100px; object-fit: contain; background: #f3f3f3; border: 4px solid #f3f3f3 }
.none { display: flex; align-items: center; justify-content: center; color: #666 }
figure.target img, figure.target .none { border: 4px solid #0072B2 }
figure.relevant img, figure.relevant .none { border: 4px double #009E73 }
figure.irrelevant img, figure.irrelevant .none { border: 4px dotted #D55E00 }
.said { margin: .2rem 0 .5rem } .label { color: #666 }
"""


def render(
    title: str, sections: Sequence[Section], plots: Sequence[tuple[str, bytes]], runs: Sequence[Run], pictures: Pictures
) -> str:
    """The page. `plots` are (title, PNG) and stand after the first section."""
    body: list[Content] = []
    for position, section in enumerate(sections):
        body.extend(_section(section))
        if position == 0:
            body.extend(element("img", src=png_uri(data), alt=name, class_="plot") for name, data in plots)
    mains = [(run, series) for run in runs for series in run.mains]
    number = max(1, _HUNTS_OF_A_KIND // max(1, len(mains)))
    for run, series in mains:
        body.extend(_examples(run, series, number, pictures))
    if pictures.missing:
        body.append(element("p", f"{len(pictures.missing)} images have no picture that can be read."))
    return document(title, _STYLE, body)


def _section(section: Section) -> list[Content]:
    parts: list[Content] = [element(f"h{section.level}", section.title)]
    parts.extend(element("p", note) for note in section.notes)
    parts.extend(_table(table) for table in section.tables)
    return parts


def _table(table: Table) -> Element:
    def line(tag: str, cells: Sequence[str]) -> Element:
        made = (
            element(tag, cell) if column < table.labels else element(tag, cell, class_="number")
            for column, cell in enumerate(cells)
        )
        return extend(element("tr"), made)

    rows = extend(element("tbody"), (line("td", row) for row in table.rows))
    return element("table", element("thead", line("th", table.head)), rows)


def _examples(run: Run, series: Series, number: int, pictures: Pictures) -> list[Content]:
    controls = [
        (run.label(control), {hunt.query_id: hunt for hunt in control.hunts}) for control in run.controls(series)
    ]
    parts: list[Content] = [
        element("h2", f"Some hunts of {run.name}, {run.label(series)}"),
        element(
            "p",
            "A random choice with a fixed seed. Blue, whole line: right for the query. Green, double line: marked "
            "relevant. Orange, dotted: marked irrelevant.",
        ),
    ]
    for group in choose(series, number):
        parts.append(element("h3", _group_title(group)))
        for hunt in group.hunts:
            others = [(label, hunts[hunt.query_id]) for label, hunts in controls if hunt.query_id in hunts]
            parts.append(_hunt(hunt, others, pictures))
    return parts


def _group_title(group: Group) -> str:
    return f"{group.title} ({len(group.hunts)} of {group.among})"


def _hunt(hunt: Hunt, others: Sequence[tuple[str, Hunt]], pictures: Pictures) -> Element:
    outcome = _outcome(hunt)
    beside = "; ".join(f"{label}: {_outcome(other)}" for label, other in others)
    article = element(
        "article",
        element("h4", hunt.text),
        element("p", f"Query {hunt.query_id}. {outcome[0].upper()}{outcome[1:]}, after {hunt.seconds:.1f} s."),
    )
    if beside:
        article.append(element("p", element("span", "The same query, ", class_="label"), beside))
    targets = (_picture(id, "right for the query", "target", pictures) for id in hunt.targets[:_MOST_TARGETS])
    article.append(extend(element("div", class_="pictures"), targets))
    if len(hunt.targets) > _MOST_TARGETS:
        article.append(element("p", f"and {len(hunt.targets) - _MOST_TARGETS} more images that are right for it"))
    for item, following in zip(hunt.rounds, (*hunt.rounds[1:], None), strict=True):
        article.append(_round(hunt, item, following, pictures))
    return article


def _outcome(hunt: Hunt) -> str:
    if hunt.failure or hunt.stopped == "failed":
        return f"failed: {hunt.failure}" if hunt.failure else "failed"
    return f"found in round {hunt.found}" if hunt.found is not None else f"not found ({hunt.stopped})"


def _round(hunt: Hunt, item: Round, following: Round | None, pictures: Pictures) -> Element:
    rank = "no rank" if item.rank is None else f"rank {item.rank}"
    place = "not among the hits" if item.position is None else f"place {item.position} of the hits"
    made = element("div", element("h5", f"Round {item.index}: {rank}, {place}"), class_="round")
    said = element("p", class_="said")
    for label, text in _said(item):
        extend(said, (element("span", f"{label}: ", class_="label"), text, element("br")))
    made.append(said)
    relevant = set(following.relevant) if following else set()
    irrelevant = set(following.irrelevant) if following else set()
    row = element("div", class_="pictures")
    places = {id: number for number, id in enumerate(dict.fromkeys((*item.hits, *item.displayed)), 1)}
    marked = (id for id in item.hits if id in relevant | irrelevant)  # may come from beyond what was displayed
    for id in dict.fromkeys((*item.displayed[:_MOST_PICTURES], *marked)):
        marks = (
            (id in hunt.targets, "right for the query", "target"),
            (id in relevant, "marked relevant", "relevant"),
            (id in irrelevant, "marked irrelevant", "irrelevant"),
        )
        words = [word for there, word, _ in marks if there]
        kinds = [kind for there, _, kind in marks if there]
        row.append(_picture(id, f"{places[id]}. {', '.join(words)}", kinds[0] if kinds else "plain", pictures))
    made.append(row)
    if len(item.displayed) > _MOST_PICTURES:
        made.append(element("p", f"and {len(item.displayed) - _MOST_PICTURES} more"))
    return made


def _said(item: Round) -> list[tuple[str, str]]:
    """What was said before the round, and what became of it."""
    rewrite = f"{item.rewrite} (the guard fell back)" if item.fell_back else item.rewrite
    facts = (
        ("marked relevant", ", ".join(item.relevant)),
        ("marked irrelevant", ", ".join(item.irrelevant)),
        ("comment", item.comment),
        ("rewrite", rewrite),
        ("query", item.query),
        ("did without", ", ".join(item.degraded)),
    )
    return [(label, text) for label, text in facts if text]


def _picture(image_id: str, label: str, kind: str, pictures: Pictures) -> Element:
    uri = pictures.uri(image_id)
    shown = element("img", src=uri, alt=image_id) if uri else element("div", "no picture", class_="none")
    caption = element("figcaption", f"{label} ", element("span", image_id, class_="label"))
    return element("figure", shown, caption, class_=kind)
