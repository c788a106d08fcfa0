"""Ways to do one thing, timed in turn, round by round, so that a slow moment of the machine hits all of them alike.

`turns` says whose turn it is and leaves the rest to the caller, who may await what it times. `timed_turns` times calls;
`timed_responses` times responses that come item by item, each without its first item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, NamedTuple, TypeVar

from lts_ray.timing import Clock

Way = TypeVar("Way")
Task = TypeVar("Task")
Item = TypeVar("Item")
Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


class Turn(NamedTuple, Generic[Way, Task]):
    """round: from 0; the rounds that only warm up have negative numbers."""

    round: int
    task: Task
    way: Way

    @property
    def counts(self) -> bool:
        return self.round >= 0


def turns(
    ways: Iterable[Way],
    tasks: Sequence[Task],
    *,
    rounds: int,
    warmup: int = 0,
    progress: Progress = lambda done, total: None,
) -> Iterator[Turn[Way, Task]]:
    """In every round each task, and each way at it. Another way begins at the next task, and at this one next round.

    `progress` is told of a turn when the next one is asked for.
    """
    order = list(ways)
    total, done = (warmup + rounds) * len(tasks) * len(order), 0
    for number in range(-warmup, rounds):
        for place, task in enumerate(tasks):
            first = (number + place) % len(order)
            for way in order[first:] + order[:first]:
                yield Turn(number, task, way)
                done += 1
                progress(done, total)


def timed_turns(
    ways: Mapping[Way, Callable[[int], object]],
    *,
    rounds: int,
    warmup: int = 0,
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> dict[Way, tuple[float, ...]]:
    """Milliseconds that each way took when called with the round's number, round by round, without the warm-up."""
    times_ms: dict[Way, list[float]] = {way: [] for way in ways}
    for turn in turns(ways, (None,), rounds=rounds, warmup=warmup, progress=progress):
        begin = clock()
        ways[turn.way](turn.round)
        took_ms = 1e3 * (clock() - begin)
        if turn.counts:
            times_ms[turn.way].append(took_ms)
    return {way: tuple(took_ms) for way, took_ms in times_ms.items()}


@dataclass(frozen=True)
class Responses(Generic[Item]):
    """What one way to decode gave, and how long each response took: the median over the rounds.

    The first item of a response, for which the prompt is read, is in `items` and not in `seconds`.
    """

    items: tuple[tuple[Item, ...], ...]
    seconds: tuple[float, ...]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds)


def timed_responses(
    ways: Mapping[Way, Callable[[int], Iterator[Item]]],
    *,
    responses: int,
    rounds: int,
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> dict[Way, Responses[Item]]:
    """Each way starts response 0 .. responses - 1 when called with its number, in every round the same."""
    items: dict[tuple[Way, int], tuple[Item, ...]] = {}
    times: dict[tuple[Way, int], list[float]] = {(way, index): [] for way in ways for index in range(responses)}
    for _, index, way in turns(ways, range(responses), rounds=rounds, progress=progress):
        response = ways[way](index)
        first = next(response)
        begin = clock()
        rest = tuple(response)
        times[way, index].append(clock() - begin)
        items[way, index] = (first, *rest)
    return {
        way: Responses(
            items=tuple(items[way, index] for index in range(responses)),
            seconds=tuple(median(times[way, index]) for index in range(responses)),
        )
        for way in ways
    }
