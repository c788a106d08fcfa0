"""What an engine's steps took, one after the other, and what a simulator makes of them: costs that fit, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import lsq_linear

from lts_ray.runtime.step_costs import StepCosts
from serve.engine.learned_times import LearnedTimes
from serve.engine.step import Step

FITTED, LIVED = 1000, 2048
"""So many of the last steps say what steps cost, and so many teach an engine its reserves of time."""

LEAST = 1e-3
"""Of a slowdown."""


class TakenStep(NamedTuple):
    step: Step
    """Without its parts."""
    took_ms: float
    end_s: float
    """By the engine's clock."""


class KeptSteps(LearnedTimes):
    """Keeps the steps that it learns from."""

    def __init__(self, costs: StepCosts) -> None:
        super().__init__(costs)
        self.steps: list[TakenStep] = []

    def end(self, step: Step) -> tuple[float, float]:
        end_s, took_ms = super().end(step)
        self.steps.append(TakenStep(replace(step, parts=(), groups=()), took_ms, end_s))
        return end_s, took_ms


class StepFit(NamedTuple):
    costs: StepCosts
    recorded: tuple[float, ...]
    """What each step took over what it then costs, of those that read no prompt."""
    recorded_prompts: tuple[float, ...]
    """Of those that do."""


def fitted(costs: StepCosts, steps: Sequence[TakenStep]) -> StepFit:
    """The costs with the slowdowns and the overhead that these steps show, and the noise around them.

    costs: of the calibration. By least squares of the relative errors, so that the mean is true.
    """
    rows = np.array([(step.quiet_ms, took_ms, step.reads_prompt) for step, took_ms, _ in steps[-FITTED:]], dtype=float)
    quiet, took, prompt = rows[rows[:, 0] > 0].T
    ratio = took / quiet
    typical = np.where(
        prompt > 0, *(np.median(ratio[part]) if part.any() else 1.0 for part in (prompt > 0, prompt == 0))
    )
    parts = np.stack([1 / quiet, 1 - prompt, prompt], axis=1)
    found = lsq_linear(parts / typical[:, None], ratio / typical, bounds=([0.0, LEAST, LEAST], np.inf))
    overhead_ms, slowdown, with_prompt = found.x.tolist()
    with_prompt = with_prompt if prompt.any() else slowdown
    corrected = costs.corrected(slowdown=slowdown, prompt_slowdown=with_prompt / slowdown, overhead_ms=overhead_ms)
    noise = ratio / (parts @ found.x)
    return StepFit(corrected, tuple(noise[prompt == 0].tolist()), tuple(noise[prompt > 0].tolist()))
