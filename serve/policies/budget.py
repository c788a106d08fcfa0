"""What a request asks of latency, and what it was predicted to get or got: plain numbers in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["ttft", "tpot", "e2e"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    ttft_ms: float
    """Arrival to first token."""
    tpot_ms: float
    """Mean time of a token after the first."""
    e2e_ms: float
    """Arrival to last token."""

    def to_json(self) -> dict[Kind, float]:
        return {kind: round(getattr(self, f"{kind}_ms"), 2) for kind in KINDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Upper bounds of a Timing; None where the request asks for nothing."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_ms is not None or self.tpot_ms is not None or self.e2e_ms is not None

    def holds(self, timing: Timing, *, margin: float = 1.0) -> bool:
        """Whether `timing`, scaled by `margin`, is within every bound."""
        return all(getattr(timing, f"{kind}_ms") * margin <= limit for kind, limit in self.items().items())

    def used(self, timing: Timing) -> float:
        """The share of its nearest bound that `timing` takes; above 1 it is missed. 0 without any."""
        return max((getattr(timing, f"{kind}_ms") / limit for kind, limit in self.items().items()), default=0.0)

    def items(self) -> dict[Kind, float]:
        """The bounds that were asked for, by kind."""
        return {kind: limit for kind in KINDS if (limit := getattr(self, f"{kind}_ms")) is not None}

    def last_token_ms(self, *, first_token_ms: float, max_tokens: int) -> float | None:
        """When, after arrival, the last token is due for a request whose first came at `first_token_ms`."""
        due = [] if self.e2e_ms is None else [self.e2e_ms]
        if self.tpot_ms is not None:
            due.append(first_token_ms + self.tpot_ms * (max_tokens - 1))
        return min(due, default=None)


NO_BUDGET = Budget()
