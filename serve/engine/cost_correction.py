"""What a step costs here and now: the measured costs, corrected by the steps that serving has just run.

Costs are measured on a quiet node, one step after the other. Serving adds work to every step, and shares its node with
proxies, other replicas and other programs. So a step is taken to last

    slowdown * (prompt_slowdown if it reads a prompt) * measured + overhead

and the three are tracked by a Kalman filter over the relative times: each step moves them along what it says, by as
much as they are still uncertain. That is much at first; later about the last ten steps count.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        # What is tracked: overhead in units, the slowdown, and what prompts add to the slowdown. And their covariance.
        self._state = [
            nominal.overhead_ms / self._unit_ms if self._unit_ms else 0.0,
            nominal.slowdown,
            nominal.slowdown * (nominal.prompt_slowdown - 1),
        ]
        self._covariance = [[UNCERTAIN[row] * (row == column) for column in range(3)] for row in range(3)]

    def note(self, groups: Sequence[Group], actual_ms: float, *, prompt: bool) -> None:
        """Learn from one step. prompt: whether it read a piece of one."""
        nominal_ms = self._nominal.step_ms(groups)
        if nominal_ms <= 0 or actual_ms <= 0:
            return
        said = (self._unit_ms / nominal_ms, 1.0, float(prompt))
        state, covariance = self._state, self._covariance
        for place, row in enumerate(covariance):
            row[:] = [value * (1 - FORGETTING) for value in row]
            row[place] += UNCERTAIN[place] * FORGETTING
        shared = [_product(row, said) for row in covariance]
        expected = _product(state, said)
        variance = _product(shared, said) + NOISE * expected**2
        most = STALL * sqrt(variance)
        surprise = min(max(actual_ms / nominal_ms - expected, -most), most)
        for place, row in enumerate(covariance):
            gain = shared[place] / variance
            state[place] += gain * surprise
            row[:] = [value - gain * other for value, other in zip(row, shared, strict=True)]
        overhead = max(state[0], 0.0)
        slowdown = _within_limits(state[1])
        with_prompt = _within_limits(state[1] + state[2])
        self._state = [overhead, slowdown, with_prompt - slowdown]
        self.costs = replace(
            self._nominal,
            slowdown=slowdown,
            prompt_slowdown=with_prompt / slowdown,
            overhead_ms=overhead * self._unit_ms,
        )


def _product(left: Sequence[float], right: Sequence[float]) -> float:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _within_limits(slowdown: float) -> float:
    return min(max(slowdown, 1 / LIMIT), LIMIT)
