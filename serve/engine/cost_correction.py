"""What a step costs here and now: the measured costs, corrected by the steps that serving has just run.

Costs are measured on a quiet node, one step after the other. Serving adds work to every step, and shares its node with
proxies, other replicas and other programs. So a step is taken to last

    slowdown * (prompt_slowdown if it reads a prompt) * measured + overhead

and the three are tracked by a Kalman filter over the relative times: each step moves them along what it says, by as
much as they are still uncertain. That is much at first; later about the last ten steps count.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from lts_ray.runtime.step_costs import Group, StepCosts

LIMIT = 16.0
"""No slowdown beyond it is believed, nor its inverse."""
NOISE = 0.1**2
"""Variance of one step's time, relative to what such a step takes on average."""
UNCERTAIN = (0.3**2, 0.5**2, 0.3**2)
"""Variances before the first step: of the overhead over the cheapest step's time, the slowdown, a prompt's share."""
FORGETTING = 1 / 500
"""The part of that uncertainty which comes back with every step."""
STALL = 3.0
"""A step counts as at most so many deviations off what was expected: one stall is not the new normal."""


class CostCorrection:
    """`note` every step that has run; `costs` are those of the next one."""

    def __init__(self, nominal: StepCosts) -> None:
        self.costs = nominal
        self._nominal = replace(nominal, slowdown=1.0, prompt_slowdown=1.0, overhead_ms=0.0)
        self._unit_ms = self._nominal.step_ms([Group(1000, 1, 1, 1)])  # about the cheapest step of a small model
        # What is tracked: overhead in units, the slowdown, and what prompts add to the slowdown.
        self._state = (
            nominal.overhead_ms / self._unit_ms if self._unit_ms else 0.0,
            nominal.slowdown,
            nominal.slowdown * (nominal.prompt_slowdown - 1),
        )
        # Their covariances, which are symmetric: rows 0, 1, 2 from the diagonal on.
        self._covariance = (UNCERTAIN[0], 0.0, 0.0, UNCERTAIN[1], 0.0, UNCERTAIN[2])

    def note(self, quiet_ms: float, actual_ms: float, *, prompt: bool) -> None:
        """Learn from one step. quiet_ms: by the costs without a correction. prompt: whether it read a piece of one."""
        if quiet_ms <= 0 or actual_ms <= 0:
            return
        # What the step says of the overhead and of what prompts add; of the slowdown, 1.
        unit, said = self._unit_ms / quiet_ms, float(prompt)
        c00, c01, c02, c11, c12, c22 = [(1 - FORGETTING) * value for value in self._covariance]
        c00 += UNCERTAIN[0] * FORGETTING
        c11 += UNCERTAIN[1] * FORGETTING
        c22 += UNCERTAIN[2] * FORGETTING
        shared0 = c00 * unit + c01 + c02 * said
        shared1 = c01 * unit + c11 + c12 * said
        shared2 = c02 * unit + c12 + c22 * said
        overhead, slowdown, added = self._state
        expected = overhead * unit + slowdown + added * said
        variance = shared0 * unit + shared1 + shared2 * said + NOISE * expected**2
        most = STALL * sqrt(variance)
        surprise = min(max(actual_ms / quiet_ms - expected, -most), most) / variance
        self._covariance = (
            c00 - shared0 * shared0 / variance,
            c01 - shared0 * shared1 / variance,
            c02 - shared0 * shared2 / variance,
            c11 - shared1 * shared1 / variance,
            c12 - shared1 * shared2 / variance,
            c22 - shared2 * shared2 / variance,
        )
        slowdown += shared1 * surprise
        with_prompt = _within_limits(slowdown + added + shared2 * surprise)
        slowdown = _within_limits(slowdown)
        overhead = max(overhead + shared0 * surprise, 0.0)
        self._state = (overhead, slowdown, with_prompt - slowdown)
        self.costs = self._nominal.corrected(
            slowdown=slowdown, prompt_slowdown=with_prompt / slowdown, overhead_ms=overhead * self._unit_ms
        )


def _within_limits(slowdown: float) -> float:
    return min(max(slowdown, 1 / LIMIT), LIMIT)
