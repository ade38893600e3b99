"""What the turns of a session say about the target, as evidence: shared by the strategies that weigh choices."""

from __future__ import annotations

from collections.abc import Sequence

from services.orchestrator.strategies.base import Evidence, History, Turn

MAX_MARKS = 90  # terms of one search are at most 100; older marks are left out first
MAX_EVIDENCE = 4096  # displayed images in all choices of a search together; the embedder takes no more


def evidence_of(
    turns: Sequence[Turn], temperature: float, lapse: float, most: int = MAX_EVIDENCE
) -> tuple[Evidence, ...]:
    """One choice for each turn with marks, oldest first.

    Where there are more than `most` displayed images, older choices and unmarked images at the end of a page are left
    out first. `temperature` and `lapse` are those of :class:`Evidence`.
    """
    room, newest_first = most, []
    for turn in reversed([turn for turn in turns if turn.has_marks]):
        marked = {*turn.relevant, *turn.irrelevant}
        room -= len(marked)
        if room < 0:
            break
        unmarked = tuple(id for id in turn.displayed if id not in marked)[:room]
        room -= len(unmarked)
        newest_first.append(Evidence(turn.relevant, turn.irrelevant, unmarked, temperature, lapse))
    return tuple(reversed(newest_first))


def newest_marks(history: History) -> dict[str, bool]:
    """Whether each marked image is relevant, by its newest mark; the newest `MAX_MARKS` images."""
    marks: dict[str, bool] = {}
    for turn in history.turns:
        for ids, liked in ((turn.relevant, True), (turn.irrelevant, False)):
            for id in ids:
                marks.pop(id, None)
                marks[id] = liked
    return dict(list(marks.items())[-MAX_MARKS:])
