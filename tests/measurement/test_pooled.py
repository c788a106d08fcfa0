"""Pooled latencies against what is true: made up, or of a simulated node on which other programs run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Measurement
from lts_ray.measurement.pooled import CANDIDATES_PER_NUMBER, SUREST, pooled, pooled_values
from lts_ray.proxies.agreement import spearman
from tests.measurement.simulated_node import SimulatedNode

Array = NDArray[np.float64]
WIDTHS = [round(2816 * step / 8) for step in range(1, 9)]


def candidates(count: int, layers: int, rng: np.random.Generator) -> Array:
    """[count, layers], widths."""
    return rng.choice(WIDTHS, size=(count, layers)).astype(np.float64)


def truth_of(features: Array, rng: np.random.Generator, *, own: float = 0.01) -> Array:
    """Milliseconds, nearly a sum over layers, each of which has its own price; own: the rests' spread, of a value."""
    prices = rng.uniform(0.8, 1.2, size=features.shape[1]) * 0.9 / (2816 * features.shape[1])
    return (0.4 + features @ prices) * (1 + own * rng.normal(size=len(features)))


@given(seed=st.integers(0, 10**6), layers=st.integers(1, 6), own=st.sampled_from([0.0, 0.01, 0.3]))
def test_values_without_an_error_stay_as_they_are(seed: int, layers: int, own: float) -> None:
    rng = np.random.default_rng(seed)
    features = candidates(30, layers, rng)
    truth = truth_of(features, rng, own=own)
    assert pooled_values(truth, np.zeros(30), features) is None
    found = pooled_values(truth, np.full(30, 1e-9), features)
    assert found is None or found[0] == pytest.approx(truth, rel=1e-6)


@given(layers=st.integers(1, 6), count=st.integers(1, 20))
def test_few_candidates_stand_for_themselves(layers: int, count: int) -> None:
    rng = np.random.default_rng(count)
    features = np.arange(count * layers, dtype=np.float64).reshape(count, layers) ** 2 + rng.normal(
        size=(count, layers)
    )
    learned = min(layers + 1, count)
    found = pooled_values(rng.uniform(1, 2, count), np.full(count, 0.1), features)
    assert (found is None) == (count < CANDIDATES_PER_NUMBER * learned)


def test_pooling_gives_what_the_whole_covariance_says() -> None:
    """A Gaussian prior over values: a wide one for the coefficients, and the likeliest spread for the rests."""
    rng = np.random.default_rng(3)
    features = candidates(24, 3, rng)
    errors = np.full(24, 0.05)
    values = truth_of(features, rng, own=0.1) + 0.05 * rng.normal(size=24)
    columns = np.column_stack([np.ones(24), features / 2816])

    def posterior(spread: float) -> tuple[float, Array, Array]:
        prior = 1e4 * columns @ columns.T + spread * np.eye(24)
        seen = prior + np.diag(errors**2)
        gain = prior @ np.linalg.inv(seen)
        likelihood = -(np.linalg.slogdet(seen)[1] + values @ np.linalg.solve(seen, values)) / 2
        return likelihood, gain @ values, np.sqrt(np.diag(prior - gain @ prior))

    _, means, deviations = max((posterior(spread) for spread in np.geomspace(1e-6, 1, 400)), key=lambda each: each[0])
    found = pooled_values(values, errors, features)
    assert found is not None
    assert found[0] == pytest.approx(means, rel=0.01)
    assert found[1] == pytest.approx(deviations, rel=0.1)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_noise_is_taken_out_and_intervals_hold_as_often_as_they_say(noise: float) -> None:
    raw, after, held = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        features = candidates(40, 3, rng)
        truth = truth_of(features, rng)
        errors = noise * rng.uniform(0.5, 1.5, size=40)
        values = truth + errors * rng.normal(size=40)
        found = pooled_values(values, errors, features)
        if found is None:  # noise has made one of the sums negative
            continue
        raw.append(np.abs(values - truth).mean())
        after.append(np.abs(found[0] - truth).mean())
        held.append((np.abs(found[0] - truth) <= SUREST * found[1]).mean())
    assert len(raw) > 40
    assert np.mean(after) < 0.5 * np.mean(raw)
    assert 0.9 < np.mean(held) < 0.99


def latency(milliseconds: float, spread: float, *, seed: int = 0) -> Latency:
    rng = np.random.default_rng(seed)
    blocks = [TimedBlock(times_ms=(milliseconds + spread * rng.normal(),)) for _ in range(6)]
    return Latency(regime="decode", threads=1, blocks=tuple(blocks))


def test_a_bad_moment_leans_on_the_others_and_a_candidate_of_its_own_kind_is_believed() -> None:
    rng = np.random.default_rng(0)
    features = candidates(30, 3, rng)
    truth = truth_of(features, rng, own=0.005)
    odd, disturbed = 4, 9
    seen = truth.copy()
    seen[odd] *= 1.3
    seen[disturbed] *= 1.3
    errors = np.full(30, 0.003)
    errors[disturbed] = 0.3
    found = pooled_values(seen, errors, features)
    assert found is not None
    assert found[0][odd] == pytest.approx(seen[odd], rel=0.01)
    assert found[0][disturbed] == pytest.approx(truth[disturbed], rel=0.1)
    assert found[1][disturbed] > 3 * found[1][odd]


def test_measurements_get_a_value_beside_their_own_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    features = candidates(20, 2, rng)
    truth = truth_of(features, rng)
    numbers = {place: row.tolist() for place, row in enumerate(features)}
    measured = {
        place: Measurement(
            prefill=replace(latency(10 * ms, 0.5, seed=place), regime="prefill"),
            decode=latency(ms, 0.1, seed=place),
            peak_memory_bytes=1,
            ran_in="kernels",
        )
        for place, ms in enumerate(truth.tolist())
    }
    found = pooled(measured, numbers)
    assert list(found) == list(measured)
    for place, each in found.items():
        assert each.decode is not None
        assert each.decode.pooled_ms is not None
        assert each.to_json() == measured[place].to_json()
        assert each.cost.decode_ms == each.decode.pooled_ms[0] != measured[place].cost.decode_ms
        low, high = each.decode.interval_ms
        assert low < each.decode.value_ms < high
    turned = pooled({place: measured[place] for place in reversed(measured)}, numbers)
    assert turned[3].cost.decode_ms == pytest.approx(found[3].cost.decode_ms)
    encoders = pooled({place: replace(each, decode=None) for place, each in measured.items()}, numbers)
    assert encoders[3].decode is None
    assert encoders[3].prefill == found[3].prefill
    torch = {place: replace(each, ran_in="torch") for place, each in list(measured.items())[:3]}
    assert {place: pooled({**measured, **torch}, numbers)[place] for place in torch} == torch


class BusyNode(SimulatedNode):
    """Other programs have the core two thirds of the time, four milliseconds in the middle; nothing runs meanwhile."""

    _left_s = 0.0

    def _work(self, left: float) -> None:
        while left > self._left_s:
            left -= self._left_s
            self.now += self._left_s + self._rng.exponential(0.004)
            self._left_s = self._rng.exponential(0.002)
        self._left_s -= left
        self.now += left


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_right_while_other_programs_run(seed: int) -> None:
    """Steps of half a millisecond to more than one: every third stalls, and so do the reference's."""
    rng = np.random.default_rng(seed)
    features = candidates(40, 3, rng)
    truth = truth_of(features, rng, own=0.005)
    numbers = {place: row.tolist() for place, row in enumerate(features)}

    def measured(node: SimulatedNode) -> dict[int, Measurement]:
        yardstick = node.yardstick(0.0004)
        latencies = [node.measure(ms / 1000, yardstick) for ms in truth]
        return {
            place: Measurement(prefill=each, decode=each, peak_memory_bytes=1) for place, each in enumerate(latencies)
        }

    def decode(measurements: dict[int, Measurement]) -> list[float]:
        return [each.cost.decode_ms or 0 for each in measurements.values()]

    quiet = decode(pooled(measured(SimulatedNode(jitter=0.01, seed=seed)), numbers))
    busy = measured(BusyNode(jitter=0.2, seed=seed))
    assert spearman(decode(pooled(busy, numbers)), quiet) >= 0.95
    assert spearman(decode(busy), quiet) < 0.95  # so it is pooling that does it
