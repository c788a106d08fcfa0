"""Timing on simulated nodes: the truth is known, and no real time passes."""

from __future__ import annotations

import pytest
import torch

from lts_ray.measurement.latency import Latency
from lts_ray.measurement.timed_blocks import MAX_BLOCKS, MAX_REPEATS, MIN_BLOCKS, MIN_RUNS, warm_up
from lts_ray.timing import torch_threads
from tests.measurement.simulated_node import SimulatedNode, Span, bursts, nothing

JITTER = 0.02
MEDIAN = 1 + JITTER * 0.6745
"""Of a simulated step's time, over its duration: the median of a half-normal deviation."""
STEP_S = (0.0005, 0.005, 0.05)
FOREVER = 1e6


def measured(slow: list[Span], step_s: float, *, seed: int = 0) -> Latency:
    node = SimulatedNode(slow=slow, jitter=JITTER, seed=seed)
    yardstick = node.yardstick()
    return node.measure(step_s, yardstick)


def error(latency: Latency, step_s: float) -> float:
    return latency.median_ms / (1000 * step_s * MEDIAN) - 1


@pytest.mark.parametrize("step_s", STEP_S)
def test_a_quiet_node_needs_the_fewest_blocks_and_no_correction(step_s: float) -> None:
    latency = measured([], step_s)
    assert len(latency.blocks) == MIN_BLOCKS
    assert not latency.discarded
    assert len(latency.times_ms) >= MIN_BLOCKS * MIN_RUNS
    assert latency.slowdown == pytest.approx(1, abs=0.02)
    assert abs(error(latency, step_s)) < 0.02
    assert not latency.is_unsteady


@pytest.mark.parametrize(
    ("step_s", "after_s"),
    [(0.0005, 0.05), (0.0005, 0.1), (0.005, 0.1), (0.005, 0.3), (0.05, 0.3), (0.05, 0.6), (0.3, 2.0), (0.3, 3.0)],
)
def test_a_node_throttled_for_a_while_gives_the_same_median_and_shows_it(step_s: float, after_s: float) -> None:
    """Twice as slow for a second or for longer than a block, which begins in the midst of the blocks."""
    node = SimulatedNode(jitter=JITTER)
    yardstick = node.yardstick()
    node.slow_down(node.now + after_s, node.now + after_s + max(1.0, 8 * step_s), 2.0)
    latency = node.measure(step_s, yardstick)
    assert abs(error(latency, step_s)) < 0.05
    assert latency.worst_slowdown > 1.2


@pytest.mark.parametrize("step_s", [*STEP_S, 0.3])
def test_a_throttling_that_stays_is_corrected_for_and_reported(step_s: float) -> None:
    node = SimulatedNode(jitter=JITTER)
    yardstick = node.yardstick()
    node.slow_down(node.now, FOREVER, 2.0)
    latency = node.measure(step_s, yardstick)
    assert abs(error(latency, step_s)) < 0.05
    assert latency.slowdown == pytest.approx(2, abs=0.1)
    assert latency.is_unsteady
    assert len(latency.discarded) <= MAX_REPEATS


def test_a_baseline_taken_while_throttled_is_replaced_when_the_node_recovers() -> None:
    node = SimulatedNode(slow=[(0.0, FOREVER, 2.0)], jitter=JITTER)
    yardstick = node.yardstick()
    slow = yardstick.baseline_ms
    node.recover()
    latency = node.measure(0.005, yardstick)
    assert latency.reference_ms == yardstick.baseline_ms == pytest.approx(slow / 2, rel=0.05)
    assert abs(error(latency, 0.005)) < 0.05


@pytest.mark.parametrize("step_s", STEP_S)
@pytest.mark.parametrize(
    ("gap", "length", "factor"), [(0.2, 0.02, 3), (0.3, 0.1, 3), (0.5, 0.3, 4)], ids=["short", "middle", "long"]
)
def test_bursts_of_noise_move_the_median_by_less_than_five_percent(
    gap: float, length: float, factor: float, step_s: float
) -> None:
    """Of twenty runs one may be spoilt, if it says so: with steps as long as a burst all runs of a moment are hit."""
    runs = [
        measured(bursts(until=10, mean_gap=gap, mean_length=length, factor=factor, seed=seed), step_s, seed=seed)
        for seed in range(20)
    ]
    wrong = [each for each in runs if abs(error(each, step_s)) > 0.05]
    assert len(wrong) <= 1
    assert all(each.is_unsteady for each in wrong)
    assert any(each.worst_slowdown > 1.2 for each in runs)


def test_an_unsteady_step_is_timed_until_the_time_is_over() -> None:
    node = SimulatedNode(jitter=0.0)
    yardstick = node.yardstick()
    calls = iter(range(10_000))
    quick, slow = node.step(0.01), node.step(0.03)

    def step() -> None:
        (quick if next(calls) // 7 % 2 else slow)()

    began = node.now
    latency = node.measure_step(step, yardstick, seconds=2.0)
    assert MIN_BLOCKS < len(latency.blocks) <= MAX_BLOCKS
    assert 2.0 < node.now - began < 3.0
    assert latency.is_unsteady


def test_a_slow_step_is_run_in_the_fewest_blocks_however_long_it_takes() -> None:
    node = SimulatedNode()
    latency = node.measure(9.0, node.yardstick())
    assert [len(block.times_ms) for block in latency.blocks] == [MIN_RUNS] * MIN_BLOCKS


@pytest.mark.parametrize(
    ("durations", "runs"),
    [([1.0], 3), ([9.0, 4.0, 2.0, 1.0], 6), ([1.0, 2.0], 20)],
    ids=["stable", "settles", "never"],
)
def test_warm_up_ends_when_three_runs_agree_or_the_time_is_over(durations: list[float], runs: int) -> None:
    node = SimulatedNode()
    counted = 0

    def step() -> None:
        nonlocal counted
        duration = (
            durations[-1] if len(durations) > 2 and counted >= len(durations) else durations[counted % len(durations)]
        )
        counted += 1
        node.step(duration)()

    typical = warm_up(step, wait=nothing, clock=node.clock, seconds=30.0)
    assert (counted, typical) == (runs, 1000.0)


def test_threads_are_set_and_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()
    counts: list[int] = []

    def fail_with(threads: int) -> None:
        with torch_threads(threads) as count:
            counts.extend((count, torch.get_num_threads()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with(before + 1)
    assert counts == [before + 1, before + 1]
    assert torch.get_num_threads() == before
    with torch_threads(None) as count:
        assert count == before
