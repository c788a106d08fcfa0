"""One request of a made-up load: when it comes, how long it is and what it asks for. A replay makes its tokens up."""

from __future__ import annotations

from dataclasses import dataclass

from serve.policies.budget import Budget
from serve.policies.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    at_ms: float
    """After the load's start."""
    prompt_tokens: int
    output_tokens: int
    """Exactly so many; the end-of-text token does not stop it."""
    budget: Budget
    klass: str
    """The class that the budget was drawn from: "tight", "medium", "loose" or "none"."""
    priority: int = 0

    def request(self, prompt: tuple[int, ...] | None = None) -> Request:
        """prompt: None where no model reads it."""
        return Request(
            prompt=(0,) * self.prompt_tokens if prompt is None else prompt,
            max_tokens=self.output_tokens,
            budget=self.budget,
            priority=self.priority,
            ignore_eos=True,
        )
