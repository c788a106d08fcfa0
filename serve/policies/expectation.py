"""What a request is expected to take, and between which bounds that will be."""

from __future__ import annotations

from dataclasses import dataclass

from serve.policies.budget import KINDS, Kind, Timing

CONFIDENCE = 0.9
"""How often a response lies within its interval."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Made when a request's first step begins, of a response that makes all the tokens that it may.

    Times are counted from the request's arrival.
    """

    forecast: Timing
    """What the plan that the policy follows comes to, by what steps cost."""
    waited_ms: float
    """The part of it that had passed."""
    likely: Timing
    """The forecast, as the responses before strayed from theirs at the median."""
    low: Timing
    high: Timing
    """Between the two it lies as often as CONFIDENCE says."""

    def interval(self) -> dict[Kind, tuple[float, float]]:
        low, high = self.low.to_json(), self.high.to_json()
        return {kind: (low[kind], high[kind]) for kind in KINDS}
