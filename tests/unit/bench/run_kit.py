"""Runs made up for the tests of metrics and report."""

import random

from warmer.bench.records import VERSION, Header, Hunt, Round, to_line


def header(**changes):
    facts = {
        "version": VERSION,
        "dataset": "made-up",
        "collection": "photos",
        "images": 100,
        "settings": {"strategy": "fused", "user": "semantic", "shown": 10, "rounds": 3, "seed": 0},
        "models": {"embedder": "compact@1"},
        "problems": {},
    }
    return Header(**facts | changes)


def round_(index, rank, position=None, *, target="t", shown=10, hits=None, **more):
    """A round whose hits hold the target at its place, or exactly the hits given."""
    if hits is None:
        hits = [f"other{number}" for number in range(20)]
        if position is not None:
            hits.insert(position - 1, target)
    ranks = {} if rank is None else {target: rank}
    return Round(index, rank, position, tuple(hits), tuple(hits[:shown]), ranks, **more)


def hunt(query_id, places, *, target="t", targets=None, arm="main", found=None, stopped=None, failure="", **more):
    """A hunt of one (rank, position) for each round."""
    rounds = more.pop("rounds", None) or tuple(
        round_(index, rank, position, target=target) for index, (rank, position) in enumerate(places)
    )
    return Hunt(
        query_id=query_id,
        arm=arm,
        strategy=more.pop("strategy", "fused"),
        user=more.pop("user", "semantic"),
        text=more.pop("text", f"text of {query_id}"),
        targets=targets or (target,),
        rounds=rounds,
        found=found,
        stopped=stopped or ("failed" if failure else "found" if found is not None else "rounds"),
        failure=failure,
        seconds=1.0,
    )


def write(path, hunts, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(to_line, [header(**changes), *hunts])), encoding="utf-8")
    return path


def played(seed, arm, gain, *, images=20, captions=3, **more):
    """Hunts whose target comes nearer by a factor each round, the same queries for every seed and arm."""
    luck, starts = random.Random(f"{seed} {arm}"), random.Random(0)
    hunts = []
    for number in range(images * captions):
        target = f"image{number // captions}.jpg"
        rank = round(starts.uniform(1, 60))
        places, found = [], None
        for index in range(4):
            rank = max(1, round(rank * (gain * luck.uniform(0.8, 1.2) if index else 1)))
            position = max(1, rank - 10 * index)
            places.append((rank, position if position <= 20 else None))
            if position <= 10:
                found = index
                break
        hunts.append(hunt(f"q{number:03}", places, target=target, arm=arm, found=found, **more))
    luck.shuffle(hunts)
    return hunts
