"""Ways to decode, timed in turn: response by response, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from lts_ray.timing import Clock

Key = TypeVar("Key")
Item = TypeVar("Item")
Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


@dataclass(frozen=True)
class Responses(Generic[Item]):
    """What one way to decode gave, and how long each response took: the median over the repeats.

    The first item of a response, for which the prompt is read, is in `items` and not in `seconds`.
    """

    items: tuple[tuple[Item, ...], ...]
    seconds: tuple[float, ...]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds)


def interleaved(
    ways: Mapping[Key, Callable[[int], Iterator[Item]]],
    *,
    responses: int,
    repeats: int,
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> dict[Key, Responses[Item]]:
    """Each way starts response 0 .. responses - 1 when called with its number, in every repeat the same."""
    items: dict[tuple[Key, int], tuple[Item, ...]] = {}
    times: dict[tuple[Key, int], list[float]] = {(way, index): [] for way in ways for index in range(responses)}
    total, done = len(times) * repeats, 0
    order = deque(ways)
    for _ in range(repeats):
        for index in range(responses):
            order.rotate()  # so that none always comes behind the same other
            for way in order:
                response = ways[way](index)
                first = next(response)
                begin = clock()
                rest = tuple(response)
                times[way, index].append(clock() - begin)
                items[way, index] = (first, *rest)
                done += 1
                progress(done, total)
    return {
        way: Responses(
            items=tuple(items[way, index] for index in range(responses)),
            seconds=tuple(median(times[way, index]) for index in range(responses)),
        )
        for way in ways
    }
