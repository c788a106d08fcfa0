"""What steps take: their costs, as corrected by those that have run, and how far time strays from that.

An engine that rehearses before it serves teaches them what serving adds to the bare steps that were calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.engine.cost_correction import CostCorrection
from serve.engine.elapsed import ElapsedTime
from serve.engine.prediction_errors import PredictionErrors
from serve.engine.step import Step
from serve.policies.deviation import NO_DEVIATION, Deviation


class LearnedTimes:
    """A step lasts from the last one's end to its own: planning and handing over are its too, clients wait for them.

    `begin` when there is something to do again, `end` after each step.
    """

    def __init__(self, costs: StepCosts, *, attainment: float | None = 0.99, clock: Clock = monotonic) -> None:
        """attainment: how often what counts as safe is to hold; None: nothing is learned, costs and times are as given.

        clock: in seconds, never back.
        """
        self.clock, self._since = clock, clock()
        self.responses = PredictionErrors()
        self._correction = CostCorrection(costs)
        self._elapsed = None if attainment is None else ElapsedTime(attainment=attainment)

    @property
    def costs(self) -> StepCosts:
        return self._correction.costs

    @property
    def deviation(self) -> Deviation:
        return NO_DEVIATION if self._elapsed is None else self._elapsed.deviation

    @property
    def passed_s(self) -> float:
        """Since the last step's end, or since there was something to do again."""
        return self.clock() - self._since

    def begin(self) -> None:
        self._since = self.clock()

    def end(self, step: Step) -> tuple[float, float]:
        """When it ended, by the clock, and how many milliseconds it took."""
        now = self.clock()
        took_ms, self._since = (now - self._since) * 1e3, now
        if self._elapsed is not None:
            self._elapsed.note(step.predicted_ms, took_ms, prompt=step.reads_prompt)
            self._correction.note(step.quiet_ms, took_ms, prompt=step.reads_prompt)
        return now, took_ms

    def end_all(self, quiet_ms: Sequence[float], ends_s: Sequence[float], *, prompt: bool) -> None:
        """Steps have run one after the other. quiet_ms: what each costs on a quiet node. ends_s: by the clock."""
        begins_s, self._since = (self._since, *ends_s[:-1]), ends_s[-1]
        if self._elapsed is not None:
            took_ms = [(end - begin) * 1e3 for begin, end in zip(begins_s, ends_s, strict=True)]
            predicted_ms = self._correction.note_all(quiet_ms, took_ms, prompt=prompt)
            self._elapsed.note_all(predicted_ms, took_ms, prompt=prompt)
