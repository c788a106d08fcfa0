"""One request of a made-up load: when it comes, how long it is and what it asks for. No tokens: who replays it makes
them."""

from __future__ import annotations

from dataclasses import dataclass

from serve.policies.budget import Budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """at_ms: after the load's start. output_tokens: exactly so many; the end-of-text token does not stop it.

    klass: the class that the budget was drawn from: "tight", "medium", "loose" or "none".
    """

    at_ms: float
    prompt_tokens: int
    output_tokens: int
    budget: Budget
    klass: str
