"""A thousand real photos through both ways of running Warmer: the same hits, and the recall of the model card."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from running import Running


@pytest.mark.long
def test_a_thousand_photos(local: Running, processes: Running, flickr_val: Path) -> None:
    pages = []
    for running in (local, processes):
        with running.client() as client:
            client.collections.create("val")
            report = client.collections.add_folder("val", flickr_val / "images")
            assert (report.added, report.failures) == (1000, ())
            assert client.collections.add_folder("val", flickr_val / "images").unchanged == 1000
            hits = []
            for strategy in ("preference", "rewrite"):
                session = client.sessions.create("val", strategy=strategy)
                first = session.search("a dog runs on grass")
                second = session.refine([first.hits[2].image_id], [first.hits[0].image_id], "it is black and wet")
                assert [round.index for round in session.rounds()] == [0, 1]
                hits += [*first.hits, *second.hits]
            pages.append(hits)
    one, four = pages
    assert [hit.image_id for hit in one] == [hit.image_id for hit in four]
    assert [hit.score for hit in one] == pytest.approx([hit.score for hit in four], abs=1e-5)


@pytest.mark.long
def test_recall_is_what_the_model_card_says(local: Running, flickr_val: Path) -> None:
    with (flickr_val / "images_captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::5]  # the first caption of each photo
    with local.client() as client:
        if "val" not in [collection.id for collection in client.collections.list()]:
            client.collections.create("val")
        client.collections.add_folder("val", flickr_val / "images")
        found = [
            row["image_name"] in [hit.image_id for hit in client.search("val", row["comment"], top_k=10).hits]
            for row in rows
        ]
    assert len(found) == 1000
    assert 0.64 < sum(found) / len(found) < 0.75  # .683 over all captions; the bounds are three standard errors away
