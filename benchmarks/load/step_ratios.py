"""What an engine's steps took over what they cost by its calibration, one after the other: a simulator's noise."""

from __future__ import annotations

from lts_ray.runtime.step_costs import StepCosts
from serve.engine.engine import Engine
from serve.engine.observer import Observer, StepRecord


class StepRatios(Observer):
    def __init__(self, engine: Engine) -> None:
        self._engine, self._costs = engine, engine.costs
        self._steps: list[tuple[float, bool, float]] = []

    def stepped(self, record: StepRecord) -> None:
        costs, self._costs = self._costs, self._engine.costs  # the step was predicted by those before it
        reads_prompt = record.prompt_tokens > 0
        if (quiet_ms := record.predicted_ms - costs.overhead_ms) > 0:
            factor = costs.slowdown * (costs.prompt_slowdown if reads_prompt else 1.0)
            self._steps.append((quiet_ms / factor, reads_prompt, record.actual_ms))

    def take(self, costs: StepCosts) -> list[float]:
        """Those since the last call. costs: the same calibration's, corrected in their own way."""
        steps, self._steps = self._steps, []
        factors = {True: costs.slowdown * costs.prompt_slowdown, False: costs.slowdown}
        return [took_ms / (quiet_ms * factors[prompt] + costs.overhead_ms) for quiet_ms, prompt, took_ms in steps]
