"""What a step costs here and now: the measured cost model, corrected by the steps that serving has just run.

A cost model is measured on a quiet node, one step after the other. Serving adds work between the steps, and shares its
node with proxies, other replicas and other programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log
from typing import Literal

from lts_ray.measurement.cost_model import StepCostModel

WEIGHTS = {"prefill": 1 / 4, "decode": 1 / 16}
"""The share of the newest step; half of the correction comes from the last 2 prefills, or the last 11 decode steps."""
LIMIT = 8.0
"""A step counts as at most so many times slower or faster than predicted: one stall is not the new normal."""


class Drift:
    """A moving geometric mean of actual over predicted times, for each phase."""

    def __init__(self, nominal: StepCostModel) -> None:
        self.cost = nominal
        self._nominal = nominal
        self._logs = {"prefill": 0.0, "decode": 0.0}

    def note(
        self,
        phase: Literal["prefill", "decode"],
        neurons: Sequence[int],
        contexts: Sequence[int],
        *,
        actual_ms: float,
    ) -> None:
        """Learn from one step of these rows. Compared with the model that was measured, not with the corrected one."""
        if phase == "prefill":
            nominal_ms = self._nominal.prefill_ms(tokens=contexts[0], neurons=neurons[0])
        else:
            nominal_ms = self._nominal.decode_ms(neurons=neurons, context_tokens=sum(contexts))
        if nominal_ms <= 0 or actual_ms <= 0:
            return
        ratio = min(max(actual_ms / nominal_ms, 1 / LIMIT), LIMIT)
        self._logs[phase] += WEIGHTS[phase] * (log(ratio) - self._logs[phase])
        factors = {name: exp(value) for name, value in self._logs.items()}
        self.cost = replace(
            self._nominal,
            prefill=tuple(factors["prefill"] * each for each in self._nominal.prefill),
            decode=tuple(factors["decode"] * each for each in self._nominal.decode),
        )
