"""A request that has ended, as metrics count it."""

from __future__ import annotations

from dataclasses import dataclass

from serve.engine.response import FinishReason, Progress
from serve.policies.budget import Timing
from serve.policies.request import Request

REASONS: dict[FinishReason | None, str] = {"stop": "stop", "length": "length", "cancelled": "abort", None: "error"}
"""vLLM's words for ours. What goes on elsewhere has not ended."""


@dataclass(frozen=True)
class EndedRequest:
    request: Request
    progress: Progress
    reason: FinishReason | None
    """None: a step with it failed."""

    @property
    def timing(self) -> Timing | None:
        """None unless it came to its end, by stop or length."""
        return self.progress.measured() if self.reason in ("stop", "length") else None

    @property
    def ttft_s(self) -> float | None:
        timing = self.timing
        resumed = self.progress.before > 0  # the first token came elsewhere
        return None if timing is None or self.progress.first_s is None or resumed else timing.ttft_ms / 1e3

    @property
    def tpot_s(self) -> float | None:
        timing = self.timing
        few = self.progress.before + self.progress.tokens < 2
        return None if timing is None or few else timing.tpot_ms / 1e3

    @property
    def e2e_s(self) -> float | None:
        timing = self.timing
        return None if timing is None else timing.e2e_ms / 1e3

    @property
    def queue_s(self) -> float | None:
        admitted_s, resumed = self.progress.admitted_s, self.progress.before > 0
        return None if self.timing is None or admitted_s is None or resumed else admitted_s - self.progress.arrived_s

    def slack_s(self) -> dict[str, float]:
        """What was left of each bound of the budget, by kind."""
        if self.timing is None:
            return {}
        timing, limits = self.request.delivery.on(self.timing), self.request.wanted.items()
        return {kind: (limit_ms - getattr(timing, f"{kind}_ms")) / 1e3 for kind, limit_ms in limits.items()}

    def attainment(self) -> dict[str, bool]:
        """Whether each bound of the budget was kept, by kind; `all`: every one at once.

        Empty for a request without a budget, and for one whose client left, or that goes on elsewhere. A failed request
        has kept none.
        """
        limits, timing = self.request.wanted.items(), self.progress.measured()
        if not limits or self.reason in ("cancelled", "moved"):
            return {}
        kept = dict.fromkeys(limits, False) if self.reason is None or timing is None else self.request.kept(timing)
        return {str(kind): met for kind, met in kept.items()} | {"all": all(kept.values())}
