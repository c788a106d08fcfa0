from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from lts_ray.files import json_text
from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.simulate.fleet_run import FleetRun, FleetSample, KindSample
from serve.simulate.fleet_series import MOST, FleetSeries, fleet_series
from serve.simulate.request_outcome import Outcome, refused
from serve.traffic.arrival import Arrival
from tests.serve.simulate.test_attainment_score import LOSSES, arrival, done, scored


def timing(e2e_ms: float) -> Timing:
    return Timing(ttft_ms=e2e_ms / 10, tpot_ms=e2e_ms / 10, e2e_ms=e2e_ms)


def series(*outcomes: Outcome, samples: tuple[FleetSample, ...] = ()) -> FleetSeries:
    run = FleetRun(outcomes=outcomes, places=("a-0",) * len(outcomes), samples=samples)
    return fleet_series(run, losses=LOSSES, narrowest="S")


def asked(at_ms: float, e2e_ms: float, klass: str = "tight") -> Arrival:
    return arrival(Budget(e2e_ms=e2e_ms), klass, at_ms=at_ms)


LOAD = (
    *(done(asked(100.0 * n, 100.0), timing(75.0), {"XL": 10}) for n in range(10)),
    *(done(asked(1000.0 + n, 100.0, "loose"), timing(150.0), {"S": 10}) for n in range(6)),
    *(done(asked(1600.0 + n, 100.0), timing(50.0), {"XL": 5, "S": 5}) for n in range(5)),
    refused(asked(1700.0, 100.0), "rejected", {}),
    done(arrival(NO_BUDGET, "none", at_ms=1800.0), timing(18_300.0), {"XL": 10}),
)
"""The last answer is at 20.1 s."""


def test_each_stretch_has_what_came_in_it() -> None:
    found = series(*LOAD)
    assert found.stretch_s == 2.0
    assert found.came_s == (11.5, *[0.0] * 10)  # a second
    found = series(*LOAD[:-1])  # ends at 1.7 s
    assert found.stretch_s == 0.1
    assert found.attainment[:11] == (*[1.0] * 10, 0.0)
    assert found.attainment[11:] == (None, None, None, None, None, 1.0, 0.0)
    assert found.by_class["loose"] == (*[None] * 10, 0.0, *[None] * 7)
    assert found.by_class["tight"] == (*[1.0] * 10, *[None] * 6, 1.0, 0.0)
    assert found.loss == (*[3.0] * 10, 4.0, *[None] * 5, 3.5, 4.0)
    assert found.margin == found.margin_tenth == (*[0.25] * 10, -0.5, *[None] * 5, 0.5, None)
    assert (found.kinds, found.cost) == ({}, (None,) * 18)


def test_margins_are_of_the_nearest_bound_the_median_and_what_nine_of_ten_have() -> None:
    timings = [Timing(ttft_ms=10.0 * n, tpot_ms=1.0, e2e_ms=50.0) for n in range(11)]
    budget = Budget(ttft_ms=100.0, e2e_ms=1000.0)
    found = series(*(done(arrival(budget), timing, {"XL": 10}) for timing in timings))
    assert (found.margin, found.margin_tenth) == ((0.5,), (0.1,))


def test_stretches_together_are_the_whole() -> None:
    found, whole = series(*LOAD[:-1]), scored(*LOAD[:-1])
    came = [share * found.stretch_s for share in found.came_s if share is not None]
    kept = [share or 0.0 for share in found.attainment]
    losses = [loss or 0.0 for loss in found.loss]
    assert np.dot(came, kept) / sum(came) == pytest.approx(whole.attainment, abs=1e-5)
    assert np.dot(came, losses) / sum(came) == pytest.approx(whole.loss, abs=1e-5)


def test_samples_are_means_of_a_stretch_and_the_last_ones_cost() -> None:
    samples = tuple(
        FleetSample(at_s=at_s, kinds={"a": KindSample(up=up, coming=1, running=2 * up, waiting=0)}, cost=at_s * 2)
        for at_s, up in ((0.0, 1), (0.5, 2), (1.0, 3), (4.0, 6), (20.0, 8))
    )
    found = series(*LOAD, samples=samples)
    assert found.stretch_s == 2.0
    assert found.kinds["a"].up == (2.0, 2.0 + 1.0, *[6.0] * 8, 8.0)  # in the second one, as at its beginning
    assert found.kinds["a"].running == (4.0, 6.0, *[12.0] * 8, 16.0)
    assert found.kinds["a"].coming == (1.0,) * 11
    assert found.cost == (2.0, 2.0, *[8.0] * 8, 40.0)


def test_without_requests_there_is_nothing_to_tell() -> None:
    found = series()
    assert (found.came_s, found.attainment, found.loss, found.by_class) == ((0.0,), (None,), (None,), {})


def test_a_long_load_has_no_more_stretches_and_its_series_is_json() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 86_400_000, size=5_000))
    outcomes = [done(asked(float(at_ms), 100.0), timing(90.0), {"XL": 10}) for at_ms in times]
    found = series(*outcomes)
    assert MOST / 2 <= len(found.came_s) <= MOST + 1
    assert sum(came or 0 for came in found.came_s) * found.stretch_s == pytest.approx(5_000, rel=1e-3)
    assert json.loads(json_text(asdict(found)))["stretch_s"] == found.stretch_s
    late = series(replace(outcomes[0], arrival=asked(4e9, 100.0)), *outcomes)  # 46 days
    assert len(late.came_s) <= MOST + 1
