"""Which replicas of a big fleet a router is shown."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.shortlist import AHEAD, FEW, SHOWN, Shortlist

KINDS = ("large", "medium", "small")
changes = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(KINDS), st.booleans()), max_size=200)


def lists(seed: int = 0) -> Shortlist:
    return Shortlist(np.random.default_rng(seed))


def fleet(**counts: int) -> Shortlist:
    shortlist = lists()
    for kind, count in counts.items():
        for number in range(count):
            shortlist.join(f"{kind}-{number}", kind)
    return shortlist


def kind_of(id: str) -> str:
    return id.partition("-")[0]


@given(changes, st.integers(0, 2**32 - 1))
def test_it_shows_those_that_are_there_of_every_kind_and_all_where_they_are_few(
    changes: list[tuple[int, str, bool]], seed: int
) -> None:
    shortlist, there = lists(seed), dict[str, None]()
    for number, kind, comes in changes:
        id = f"{kind}-{number}"
        if comes:
            shortlist.join(id, kind)
            there.setdefault(id)
        else:
            shortlist.leave(id)
            there.pop(id, None)
        shown = shortlist.draw(lambda _: 0)
        assert len(shortlist) == len(there)
        assert len(shown) == len(set(shown))
        assert set(shown) <= there.keys()
        if len(there) <= SHOWN:
            assert shown == list(there)
        else:
            counts = Counter(map(kind_of, shown))
            for name, count in Counter(map(kind_of, there)).items():
                assert counts[name] >= min(count, FEW)
            assert len(shown) <= SHOWN + FEW * len(KINDS)


@given(st.integers(1, 60), st.integers(1, 60), st.sets(st.integers(0, 59)), st.integers(0, 2**32 - 1))
def test_those_that_take_no_request_are_not_shown(large: int, small: int, full: set[int], seed: int) -> None:
    shortlist = fleet(large=large, small=small)
    closed = {f"{kind}-{number}" for kind in ("large", "small") for number in full}
    for _ in range(5):
        assert not closed & set(shortlist.draw(lambda id: None if id in closed else 0, ahead=sorted(closed)))


def test_of_a_kind_that_has_more_more_are_shown() -> None:
    counts = Counter(map(kind_of, fleet(large=100, small=900).draw(lambda _: 0)))
    assert counts["large"] == FEW
    assert counts["small"] == SHOWN * 900 // 1000


def test_every_replica_is_drawn_about_as_often_as_the_others_of_its_kind() -> None:
    shortlist, counts = fleet(large=20, small=20), Counter[str]()
    for _ in range(2000):
        counts.update(shortlist.draw(lambda _: 0))
    assert len(counts) == 40
    assert max(counts.values()) < 1.2 * min(counts.values())  # 800 each; by chance 22 more or less


def test_the_less_loaded_of_those_that_are_drawn_are_shown() -> None:
    shortlist = fleet(large=100, small=100)
    asked: list[str] = []

    def load(id: str) -> float:
        asked.append(id)
        return int(id.partition("-")[2])

    shown = shortlist.draw(load)
    assert len(asked) == 2 * len(shown)
    for kind in ("large", "small"):
        drawn = sorted(load(id) for id in set(asked) if kind_of(id) == kind)
        assert sorted(load(id) for id in shown if kind_of(id) == kind) == drawn[: len(drawn) // 2]


def test_those_that_hold_the_prompt_are_shown_whatever_is_drawn() -> None:
    shortlist = fleet(large=500, small=500)
    ahead = [f"small-{number}" for number in range(AHEAD + 3)]
    assert shortlist.draw(lambda _: 0, ahead=["gone", *ahead])[:AHEAD] == ahead[:AHEAD]


def test_the_same_generator_shows_the_same() -> None:
    left, right = fleet(large=50, small=50), fleet(large=50, small=50)
    for _ in range(10):
        assert left.draw(lambda _: 0) == right.draw(lambda _: 0)
