"""What passes between the engine's tokens and the answer's bytes: the engine has so much less time for a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from serve.policies.budget import Budget, Timing


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """In milliseconds."""

    first_ms: float = 0.0
    """After the first token."""
    end_ms: float = 0.0
    """After the last one."""

    def off(self, budget: Budget) -> Budget:
        """What is left for the engine: half of each bound at least, since what is late as a rule may yet be quick."""
        ttft_ms, e2e_ms = budget.ttft_ms, budget.e2e_ms
        return replace(
            budget,
            ttft_ms=None if ttft_ms is None else ttft_ms - min(self.first_ms, ttft_ms / 2),
            e2e_ms=None if e2e_ms is None else e2e_ms - min(self.end_ms, e2e_ms / 2),
        )

    def on(self, timing: Timing) -> Timing:
        """As the client counts."""
        return replace(timing, ttft_ms=timing.ttft_ms + self.first_ms, e2e_ms=timing.e2e_ms + self.end_ms)

    def budget_ms(self, engine_ms: Mapping[str, float]) -> dict[str, float]:
        """The bounds of which `off` leaves the engine so much."""
        passes = {"ttft": self.first_ms, "tpot": 0.0, "e2e": self.end_ms}
        return {kind: ceil((limit + min(passes[kind], limit)) * 10) / 10 for kind, limit in engine_ms.items()}


NO_DELIVERY = Delivery()
