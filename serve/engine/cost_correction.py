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
        self._unit_ms = self._nominal.step_ms(
            [Group(1000, 1, 1, 1, nominal.curves[0][0])]
        )  # about the cheapest step of a small model
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
        self.note_all((quiet_ms,), (actual_ms,), prompt=prompt)

    def note_all(self, quiet_ms: Sequence[float], actual_ms: Sequence[float], *, prompt: bool) -> list[float]:
        """Learn from steps that ran one after the other. Returns what each was to take, by those before it."""
        c00, c01, c02, c11, c12, c22 = self._covariance
        overhead, slowdown, added = self._state
        costs, unit_ms, said, kept = self.costs, self._unit_ms, float(prompt), 1 - FORGETTING
        now, of_prompts, on_top_ms = costs.slowdown, costs.prompt_slowdown, costs.overhead_ms
        predicted = []
        for quiet, actual in zip(quiet_ms, actual_ms, strict=True):
            predicted.append(now * (quiet * of_prompts if prompt else quiet) + on_top_ms)
            if quiet <= 0 or actual <= 0:
                continue
            # What the step says of the overhead and of what prompts add; of the slowdown, 1.
            unit = unit_ms / quiet
            c00, c01, c02 = kept * c00 + UNCERTAIN[0] * FORGETTING, kept * c01, kept * c02
            c11, c12, c22 = kept * c11 + UNCERTAIN[1] * FORGETTING, kept * c12, kept * c22 + UNCERTAIN[2] * FORGETTING
            shared0 = c00 * unit + c01 + c02 * said
            shared1 = c01 * unit + c11 + c12 * said
            shared2 = c02 * unit + c12 + c22 * said
            expected = overhead * unit + slowdown + added * said
            variance = shared0 * unit + shared1 + shared2 * said + NOISE * expected**2
            most = STALL * sqrt(variance)
            strays = actual / quiet - expected
            surprise = (most if strays > most else -most if strays < -most else strays) / variance
            c00 -= shared0 * shared0 / variance
            c01 -= shared0 * shared1 / variance
            c02 -= shared0 * shared2 / variance
            c11 -= shared1 * shared1 / variance
            c12 -= shared1 * shared2 / variance
            c22 -= shared2 * shared2 / variance
            slowdown += shared1 * surprise
            with_prompt = slowdown + added + shared2 * surprise
            with_prompt = LIMIT if with_prompt > LIMIT else max(with_prompt, 1 / LIMIT)
            slowdown = LIMIT if slowdown > LIMIT else max(slowdown, 1 / LIMIT)
            overhead = max(overhead + shared0 * surprise, 0.0)
            added = with_prompt - slowdown
            now, of_prompts, on_top_ms = slowdown, with_prompt / slowdown, overhead * unit_ms
        self._covariance, self._state = (c00, c01, c02, c11, c12, c22), (overhead, slowdown, added)
        self.costs = self._nominal.corrected(slowdown=now, prompt_slowdown=of_prompts, overhead_ms=on_top_ms)
        return predicted
