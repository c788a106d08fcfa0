"""How a step is timed: warmed up until it is stable, then in blocks with the reference timed between them.

A block whose neighbouring references say that the node was slow is measured again later, a bounded number of times: a
short disturbance is thereby left out, a long one is corrected for (see `latency`) and reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from lts_ray.measurement.latency import Latency, TimedBlock, median_interval
from lts_ray.measurement.steps import Regime
from lts_ray.timing import Clock, Step, timed

# The warm-up ends once AGREEING runs in a row differ by no more than the share AGREEMENT.
AGREEING = 3
AGREEMENT = 0.05

# A step is timed in blocks, at least MIN_BLOCKS: the range of six blocks' medians holds the median with 95 %, that of
# fewer does not. Timing stops once the median's interval is within the share STEADY of it.
MIN_BLOCKS, MAX_BLOCKS = 6, 24
STEADY = 0.03

# A block is this many runs, as many as fit the share BLOCK_SHARE of the time there is.
MIN_RUNS, MAX_RUNS = 2, 20
BLOCK_SHARE = 0.05

# Before and after a block the reference is timed, for READING_S at least and for the share READING_SHARE of the block.
READING_S = 0.01
READING_SHARE = 0.2

# A reading that is further from the baseline than the share TOLERANCE says that the node was slow, or, below it, that
# the baseline was taken at a slow moment. Slow blocks are measured again, MAX_REPEATS of them at most, and no more
# once PATIENCE of them in a row were slow again.
TOLERANCE = 0.05
MAX_REPEATS = 6
PATIENCE = 3

# A baseline takes READINGS readings, and more for up to BASELINE_S until QUIET_READINGS of them are quiet.
READINGS = 12
QUIET_READINGS = 4
BASELINE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A block and the reference's times right before and after it."""

    times_ms: tuple[float, ...]
    before_ms: float
    after_ms: float

    @property
    def worst_ms(self) -> float:
        return max(self.before_ms, self.after_ms)

    def block(self, baseline_ms: float) -> TimedBlock:
        slowdown = (self.before_ms + self.after_ms) / 2 / baseline_ms
        return TimedBlock(times_ms=self.times_ms, slowdown=round(slowdown, 4))


class Yardstick:
    """One regime's reference step. baseline_ms: what it takes at this node's quietest moment so far."""

    def __init__(self, step: Step, *, wait: Step, clock: Clock = time.perf_counter) -> None:
        """Takes the baseline: nothing else should run on the node, though a part of the time may be disturbed."""
        self._step, self._wait, self._clock = step, wait, clock
        self._typical_ms = warm_up(step, wait=wait, clock=clock, seconds=1.0)
        self.baseline_ms = self._careful_ms()

    def read_ms(self, *, seconds: float, step_ms: float) -> float:
        """The reference's time now, from runs for about `seconds`; beside a step that takes `step_ms`.

        What disturbs for shorter than that step takes, the step averages over, and so does this: it is the median of
        means over spans as long as the step. A time clearly below the baseline says that the baseline was taken at a
        slow moment: it is taken anew.
        """
        runs = runs_within(max(seconds, READING_S), self._typical_ms, least=3, most=50)
        times = block_times(self._step, runs, wait=self._wait, clock=self._clock)
        span = min(max(round(step_ms / self._typical_ms), 1), runs)
        reading = median(mean(times[start : start + span]) for start in range(0, runs - span + 1, span))
        if reading < self.baseline_ms * (1 - TOLERANCE):
            self.baseline_ms = self._careful_ms(reading)
        return reading

    def _careful_ms(self, *seen_ms: float) -> float:
        """The middle of the quiet readings, which are those near the lowest: a node is disturbed upwards only.

        On a busy node it takes longer until enough are quiet, up to BASELINE_S. seen_ms: a reading to begin with.
        """
        runs = runs_within(READING_S, self._typical_ms, least=3, most=50)
        started, readings, quiet = self._clock(), list(seen_ms), [0.0]
        while len(readings) < READINGS or (len(quiet) < QUIET_READINGS and self._clock() - started < BASELINE_S):
            readings.append(median(block_times(self._step, runs, wait=self._wait, clock=self._clock)))
            quiet = [reading for reading in readings if reading <= (1 + TOLERANCE) * min(readings)]
        return round(median(quiet), 4)


def time_step(
    step: Step,
    yardstick: Yardstick,
    *,
    regime: Regime,
    threads: int,
    seconds: float,
    wait: Step,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time `step` in blocks until its median is known well enough or `seconds` are over.

    At least MIN_BLOCKS blocks of MIN_RUNS runs, however long they take; at worst twice as many when the node is slow.
    """
    started = clock()
    typical_ms = warm_up(step, wait=wait, clock=clock, seconds=seconds / 4)
    runs = runs_within(BLOCK_SHARE * seconds, typical_ms, least=MIN_RUNS, most=MAX_RUNS)

    def read_ms() -> float:
        return yardstick.read_ms(seconds=READING_SHARE * runs * typical_ms / 1000, step_ms=typical_ms)

    def sample(before_ms: float) -> Sample:
        times = block_times(step, runs, wait=wait, clock=clock)
        return Sample(times_ms=times, before_ms=before_ms, after_ms=read_ms())

    samples = [sample(read_ms())]
    while len(samples) < MIN_BLOCKS or (
        len(samples) < MAX_BLOCKS and clock() - started < seconds and not is_known(samples, yardstick.baseline_ms)
    ):
        samples.append(sample(samples[-1].after_ms))
    discarded = measure_again(samples, lambda: sample(read_ms()), yardstick)
    baseline_ms = yardstick.baseline_ms
    return Latency(
        regime=regime,
        threads=threads,
        blocks=tuple(sample.block(baseline_ms) for sample in samples),
        discarded=tuple(sample.block(baseline_ms) for sample in discarded),
        reference_ms=baseline_ms,
    )


def is_known(samples: Sequence[Sample], baseline_ms: float) -> bool:
    """The median's interval is narrow."""
    medians = [median(sample.block(baseline_ms).corrected_ms) for sample in samples]
    low, high = median_interval(medians)
    return high - low <= STEADY * median(medians)


def measure_again(samples: list[Sample], sample: Callable[[], Sample], yardstick: Yardstick) -> list[Sample]:
    """Replace samples taken at slow moments by better ones, the worst first; return what is left over."""
    left_over: list[Sample] = []
    patience = PATIENCE
    while patience and len(left_over) < MAX_REPEATS:
        place, worst = max(enumerate(samples), key=lambda pair: pair[1].worst_ms)
        if worst.worst_ms <= (1 + TOLERANCE) * yardstick.baseline_ms:
            break
        again = sample()
        if again.worst_ms < worst.worst_ms:
            samples[place], again = again, worst
        left_over.append(again)
        quiet = samples[place].worst_ms <= (1 + TOLERANCE) * yardstick.baseline_ms
        patience = PATIENCE if quiet else patience - 1
    return left_over


def warm_up(step: Step, *, wait: Step, clock: Clock, seconds: float) -> float:
    """Run until the last runs agree, or twice and `seconds` are over. Returns what a run takes, in milliseconds."""
    started = clock()
    times: list[float] = []
    while len(times) < 2 or clock() - started < seconds:
        times.append(timed(step, wait=wait, clock=clock))
        last = times[-AGREEING:]
        if len(last) == AGREEING and max(last) <= (1 + AGREEMENT) * min(last):
            break
    return min(times)


def runs_within(seconds: float, typical_ms: float, *, least: int, most: int) -> int:
    return most if typical_ms == 0 else min(max(int(seconds * 1000 / typical_ms), least), most)


def block_times(step: Step, runs: int, *, wait: Step, clock: Clock) -> tuple[float, ...]:
    """`runs` times in milliseconds. Where it costs little, after a run that is not counted: it finds in the processor's
    caches what ran before it, which differs from block to block."""
    if runs > MIN_RUNS:
        step()
        wait()
    return tuple(timed(step, wait=wait, clock=clock) for _ in range(runs))
