"""Whether responses lie within what was predicted of them as often as that says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from serve.engine.learned_times import LearnedTimes
from serve.engine.prediction_errors import PredictionErrors
from serve.engine.response import Admitted, Ended, Progress, Token
from serve.policies.admission import on_admission
from serve.policies.budget import KINDS, Budget, Timing
from serve.policies.expectation import CONFIDENCE, Expectation
from serve.policies.named_policies import policy_named
from serve.policies.request import Request
from serve.simulate.simulate import SimulatedEngine, SimulatedReplica
from tests.serve.policies.situations import MENU, RISING

FORECAST = Timing(ttft_ms=30, tpot_ms=2, e2e_ms=50)


def ended(prediction: Expectation, *, first_ms: float, tpot_ms: float, tokens: int = 11) -> Progress:
    """Of a request that came at 0."""
    progress = Progress(arrived_s=0.0)
    progress.note(Admitted("M", prediction, prediction.waited_ms / 1e3))
    for token in range(tokens):
        progress.note(Token(1, "M", (first_ms + token * tpot_ms) / 1e3))
    progress.note(Ended("length", (first_ms + (tokens - 1) * tpot_ms) / 1e3))
    return progress


def inside(prediction: Expectation, measured: Timing) -> dict[str, bool]:
    return {kind: low <= getattr(measured, f"{kind}_ms") <= high for kind, (low, high) in prediction.interval().items()}


def test_what_has_passed_is_certain() -> None:
    prediction = PredictionErrors().predict(FORECAST, waited_ms=29.0)
    assert 29 < prediction.low.ttft_ms < prediction.likely.ttft_ms < prediction.high.ttft_ms < 31
    assert prediction.low.e2e_ms < 50 < prediction.high.e2e_ms
    assert prediction.low.tpot_ms < 2 < prediction.high.tpot_ms


def test_of_a_response_that_began_elsewhere_its_first_token_is_certain_and_nothing_is_learned() -> None:
    errors = PredictionErrors()
    before = errors.predict(FORECAST, waited_ms=40.0)
    assert before.low.ttft_ms == before.high.ttft_ms == 30
    assert 40 < before.low.e2e_ms < before.high.e2e_ms
    for _ in range(300):
        errors.note(replace(ended(before, first_ms=30, tpot_ms=90), before=5), whole=True)
    assert errors.predict(FORECAST, waited_ms=40.0) == before


def test_what_goes_on_as_it_went_is_predicted_so() -> None:
    errors = PredictionErrors()
    for _ in range(400):
        errors.note(ended(errors.predict(FORECAST, waited_ms=10.0), first_ms=40, tpot_ms=3), whole=True)
    prediction = errors.predict(FORECAST, waited_ms=10.0)
    assert prediction.likely.ttft_ms == pytest.approx(40)
    assert prediction.likely.tpot_ms == pytest.approx(3)
    assert prediction.likely.e2e_ms == pytest.approx(70)


def test_a_response_that_ends_early_says_nothing_of_whole_ones() -> None:
    errors = PredictionErrors()
    before = errors.predict(FORECAST, waited_ms=0.0)
    for _ in range(300):
        errors.note(ended(before, first_ms=90, tpot_ms=3, tokens=1), whole=False)
    after = errors.predict(FORECAST, waited_ms=0.0)
    assert after.likely.ttft_ms == pytest.approx(90)
    assert (after.likely.e2e_ms, after.likely.tpot_ms) == (before.likely.e2e_ms, before.likely.tpot_ms)


@pytest.mark.parametrize(
    "slowness",
    [lambda place: 1.0, lambda place: 1 + place / 500, lambda place: 3.0 if place // 150 % 2 else 1.0],
    ids=["steady", "ever slower", "back and forth"],
)
def test_bounds_hold_as_often_as_they_say_whatever_the_node_does(slowness: Callable[[int], float]) -> None:
    rng, errors, held = np.random.default_rng(0), PredictionErrors(), []
    for place in range(3_000):
        slow = slowness(place)
        prediction = errors.predict(FORECAST, waited_ms=5.0)
        first, between = slow * rng.lognormal(0, 0.3, 2)
        progress = ended(prediction, first_ms=5 + 25 * first, tpot_ms=2 * between)
        errors.note(progress, whole=True)
        measured = progress.measured()
        assert measured is not None
        held.append(inside(prediction, measured))
    for kind in KINDS:
        assert np.mean([one[kind] for one in held]) == pytest.approx(CONFIDENCE, abs=0.03)


@pytest.mark.parametrize("gap_ms", [400.0, 90.0])
def test_under_a_load_the_policys_own_forecasts_have_true_bounds(gap_ms: float) -> None:
    """From an idle engine to a crowded one: later requests slow those that run, and widths change in their middle."""
    rng = np.random.default_rng(1)
    replica = SimulatedReplica(menu=MENU, costs=RISING, noise=0.3, attainment=0.99)
    policy, held = policy_named("deadline"), []
    engine = SimulatedEngine(replica, policy, longest=64, rng=rng)
    arrivals = np.cumsum(rng.exponential(gap_ms, 600))
    times = LearnedTimes(RISING, clock=lambda: engine.now_ms / 1e3)
    progress: dict[int, Progress] = {}
    arrived = 0
    while arrived < len(arrivals) or engine.scheduler.has_work:
        if not engine.scheduler.has_work:
            engine.now_ms = max(engine.now_ms, float(arrivals[arrived]))
        while arrived < len(arrivals) and arrivals[arrived] <= engine.now_ms:
            budget = Budget(e2e_ms=float(rng.choice([150.0, 300.0, 900.0])))
            request = Request(prompt=(1,) * 8, max_tokens=int(rng.integers(2, 24)), budget=budget)
            if engine.submit(arrived, request, arrived_ms=float(arrivals[arrived])):
                progress[arrived] = Progress(arrived_s=arrivals[arrived] / 1e3)
            arrived += 1
        begun_ms, before = engine.now_ms, engine.scheduler.situation(engine.now_ms)
        made = engine.step()
        for part, last in made:
            one = progress[part.id]
            if one.predicted is None:
                forecast = on_admission(before, {}, MENU, RISING, policy)
                waited_ms = begun_ms - one.arrived_s * 1e3
                prediction = times.responses.predict(forecast.timing(part.id), waited_ms=waited_ms)
                one.note(Admitted(part.option.name, prediction, begun_ms / 1e3))
            one.note(Token(0, part.option.name, engine.now_ms / 1e3))
            if last:
                one.note(Ended("length", engine.now_ms / 1e3))
                times.responses.note(one, whole=True)
                measured = one.measured()
                assert measured is not None
                assert one.predicted is not None
                held.append(inside(one.predicted, measured))
    for kind in KINDS:
        assert np.mean([one[kind] for one in held]) == pytest.approx(CONFIDENCE, abs=0.03)
