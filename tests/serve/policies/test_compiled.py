"""What was compiled says what the same in Python says, whatever the situation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lts_ray.runtime.step_costs import StepCosts
from serve.policies import compiled
from serve.policies.capacity import Capacity
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.policies.forecast import Forecast, forecast
from serve.policies.menu import Menu
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from serve.policies.rollout import Holding
from tests.serve.policies.situations import MENU, MIXED, RISING, XL, S
from tests.serve.policies.twins import any_costs, any_situations, both, uncompiled

pytestmark = pytest.mark.skipif(compiled.decision is None, reason="nothing was compiled here")
NARROW = replace(MENU, elastic=MENU.elastic[1:])
SPANS: list[tuple[int, int | None]] = [(0, None), (1, None), (1, 2)]


def assert_same(fast: Forecast, slow: Forecast) -> None:
    assert fast.jobs == slow.jobs
    assert np.allclose(fast.first_ms, slow.first_ms, rtol=1e-9, atol=1e-9)
    assert np.allclose(fast.last_ms, slow.last_ms, rtol=1e-9, atol=1e-9)
    assert fast.first_ms.shape == slow.first_ms.shape == (fast.caps, len(fast.jobs))


SHAPES = [option.shape for option in MIXED.options]
any_shapes = st.integers(1, 200) | st.sampled_from(SHAPES)


@given(any_situations(), any_costs, st.lists(any_shapes, min_size=1, max_size=9), st.data())
def test_forecasts_and_their_odds_are_the_same(
    situation: Situation, costs: StepCosts, caps: list[int], data: st.DataObject
) -> None:
    ids = [job.id for job in situation.jobs]
    widths = data.draw(st.dictionaries(st.sampled_from([*ids, -5]), st.sampled_from([300, *SHAPES])))
    every = data.draw(st.integers(1, 4))
    held = frozenset(data.draw(st.sets(st.sampled_from([*ids, -5]))))
    holding = Holding(ids=held, every=every, wait=data.draw(st.integers(0, every - 1)))
    order = data.draw(st.permutations([job.id for job in situation.waiting]))

    def foresee() -> tuple[Forecast, np.ndarray]:
        predicted = forecast(situation, order=order, widths=widths, caps=caps, costs=costs, holding=holding)
        return predicted, predicted.odds(situation.deviation, hopeless=0.9)

    (fast, odds), (slow, slow_odds) = both(foresee)
    assert_same(fast, slow)
    assert np.allclose(np.minimum(odds, 1e6), np.minimum(slow_odds, 1e6), rtol=1e-7, atol=1e-7)
    for id in ids:
        ours, theirs = fast.timing(id, -1), slow.timing(id, -1)
        assert ours.ttft_ms == pytest.approx(theirs.ttft_ms, rel=1e-9, abs=1e-9)
        assert ours.e2e_ms == pytest.approx(theirs.e2e_ms, rel=1e-9, abs=1e-9)


@given(
    any_situations(),
    any_costs,
    st.sampled_from([MENU, NARROW, MIXED]),
    st.sampled_from(SPANS),
    st.data(),
)
def test_decisions_are_the_same_one_after_the_other(
    situation: Situation, costs: StepCosts, menu: Menu, span: tuple[int, int | None], data: st.DataObject
) -> None:
    assume(situation.jobs)
    thresholds = Thresholds(free=data.draw(st.sampled_from([0.0, 0.03, 0.5])), worth=data.draw(st.floats(0.001, 0.3)))
    fast, slow = (DeadlinePolicy(thresholds=thresholds, span=span) for _ in range(2))
    for _ in range(3):
        plan = fast.plan(situation, menu, costs)
        with uncompiled():
            assert plan == slow.plan(situation, menu, costs)
        (_, predicted), slow_predicted = fast.foresee(situation, menu, costs), None
        with uncompiled():
            slow_predicted = slow.foresee(situation, menu, costs)[1]
        assert_same(predicted, slow_predicted)
        left = tuple([job for job in situation.running if data.draw(st.booleans())])
        situation = replace(situation, now_ms=situation.now_ms + data.draw(st.floats(0, 60)), running=left)


def test_what_was_compiled_from_other_sources_is_not_used() -> None:
    assert compiled.decision is not None
    assert compiled.decision.VERSION == compiled.VERSION


def test_a_step_of_many_rows_held_back_goes_on_to_its_end() -> None:
    rows = tuple(
        Job(id=id, request=Request(prompt=(0,) * 4, max_tokens=200, pinned=XL if id % 2 else S), arrived_ms=0.0)
        for id in range(40)
    )
    running = tuple(replace(job, cached=3 + 1, produced=1, first_ms=1.0) for job in rows)
    situation = Situation(now_ms=5.0, running=running, waiting=(), capacity=Capacity(slots=64, chunk_tokens=64))
    holding = Holding(ids=frozenset(range(1, 40, 2)), every=3, wait=2)
    widths = {job.id: 24 for job in running}
    fast, slow = both(
        lambda: forecast(situation, order=(), widths=widths, caps=[24, 192], costs=RISING, holding=holding)
    )
    assert_same(fast, slow)
