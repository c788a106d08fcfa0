from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.common.turns import Turn, timed_responses, timed_turns, turns


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ways_take_turns_and_a_responses_time_is_its_median_without_the_first_item() -> None:
    clock, started, told = FakeClock(), [], []
    item_s = {"quick": iter([1.0, 9.0, 2.0] * 2), "slow": iter([10.0, 10.0, 30.0] * 2)}

    def decode(way: str, index: int) -> Iterator[str]:
        started.append((way, index))
        clock.now += 100  # the prompt
        yield f"{way}-{index}-first"
        clock.now += next(item_s[way])
        yield f"{way}-{index}-second"

    ways = {way: partial(decode, way) for way in ("quick", "slow")}
    found = timed_responses(
        ways, responses=2, rounds=3, clock=clock, progress=lambda done, total: told.append((done, total))
    )
    # response 0 takes the times 1, 2, 9 and 10, 30, 10; response 1 those between them
    assert found["quick"].seconds == (2.0, 2.0)
    assert found["slow"].seconds == (10.0, 10.0)
    assert found["quick"].total_seconds == 4.0
    assert found["slow"].items[1] == ("slow-1-first", "slow-1-second")
    assert told == [(done, 12) for done in range(1, 13)]
    assert [index for _, index in started] == [0, 0, 1, 1] * 3
    assert all({way for way, _ in started[turn : turn + 2]} == {"quick", "slow"} for turn in range(0, 12, 2))
    assert {started[turn][0] for turn in range(0, 12, 2)} == {"quick", "slow"}, "the order changes"


def test_a_round_has_every_task_and_every_way_once_and_the_order_changes() -> None:
    """For each task from round to round, too: no way always comes behind the same other."""
    told: list[tuple[int, int]] = []
    taken = list(turns("ab", (1, 4), rounds=1, warmup=1, progress=lambda *done: told.append(done)))
    assert taken == [
        Turn(-1, 1, "b"), Turn(-1, 1, "a"), Turn(-1, 4, "a"), Turn(-1, 4, "b"),
        Turn(0, 1, "a"), Turn(0, 1, "b"), Turn(0, 4, "b"), Turn(0, 4, "a"),
    ]  # fmt: skip
    assert [turn.counts for turn in taken] == [False] * 4 + [True] * 4
    assert told == [(done, 8) for done in range(1, 9)]


def test_calls_are_timed_in_milliseconds_round_by_round_and_the_warm_up_is_left_out() -> None:
    clock = FakeClock()

    def step(seconds: float, number: int) -> None:
        clock.now += seconds * (number + 2)

    ways = {"quick": partial(step, 1.0), "slow": partial(step, 10.0)}
    times_ms = timed_turns(ways, rounds=2, warmup=1, clock=clock)
    assert times_ms == {"quick": (2000.0, 3000.0), "slow": (20_000.0, 30_000.0)}
