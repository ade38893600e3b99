"""Works through the images of a collection that lack something, in groups and passes, until none is left.

What is done is kept by the server group by group, so whoever is interrupted starts again and goes on where they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from warmer.errors import WarmerError
from warmer.types import Image

GROUP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image that could not be worked on.

    Attributes:
        image_id: the image.
        error: why.
    """

    image_id: str
    error: WarmerError


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What became of a group.

    Attributes:
        stored: number of images that the server keeps something new of.
        failures: the images that failed, with their errors. Images in neither changed meanwhile, and come again.
    """

    stored: int
    failures: dict[Image, WarmerError]


@dataclass(slots=True)
class Passes:
    """Hands groups of images to ``work`` on a few threads, pass after pass, until a pass finds nothing new to do.

    Attributes:
        missing: lists the images that lack something now.
        work: does one group; what it raises ends all.
        group_items: most images in a group.
        in_flight: groups worked on at once.
        limit: most images to work on; None for all.
        progress: is told how many images are done or have failed.
        stored: number of images done so far.
        failures: images that failed, which later passes leave out.
    """

    missing: Callable[[], Iterable[Image]]
    work: Callable[[list[Image]], GroupResult]
    group_items: int
    in_flight: int
    limit: int | None = None
    progress: Callable[[int], None] = lambda _: None
    stored: int = 0
    failures: dict[Image, WarmerError] = field(default_factory=dict)

    def run(self) -> None:
        """Works until nothing is missing but what failed, or the limit is reached."""
        pool = ThreadPoolExecutor(self.in_flight, thread_name_prefix="warmer-pass")
        try:
            before = -1
            while before < self._done and self._left != 0:
                before = self._done
                self._pass(pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _done(self) -> int:
        return self.stored + len(self.failures)

    @property
    def _left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self._done)

    def _pass(self, pool: ThreadPoolExecutor) -> None:
        running: deque[Future[GroupResult]] = deque()
        for group in self._groups():
            running.append(pool.submit(self.work, group))
            if len(running) >= self.in_flight:
                self._take(running.popleft().result())
        while running:
            self._take(running.popleft().result())

    def _take(self, result: GroupResult) -> None:
        self.stored += result.stored
        self.failures |= result.failures
        self.progress(self._done)

    def _groups(self) -> Iterator[list[Image]]:
        group: list[Image] = []
        size, left = 0, self._left
        for image in self.missing():
            if left == 0:
                break
            if image in self.failures:
                continue
            if group and (len(group) == self.group_items or size + image.size_bytes > GROUP_BYTES):
                yield group
                group, size = [], 0
            group.append(image)
            size += image.size_bytes
            left = None if left is None else left - 1
        if group:
            yield group

    @property
    def failed(self) -> tuple[ImageFailure, ...]:
        """The images that failed, by id."""
        return tuple(ImageFailure(image.id, error) for image, error in sorted(self.failures.items(), key=_by_id))


def _by_id(item: tuple[Image, WarmerError]) -> str:
    return item[0].id
