"""How many tokens to draft before verifying: fixed, or what pays at the acceptance seen so far.

A draft of k tokens, each accepted with probability a while all before it were, gives 1 + a + … + a^k tokens: those that
stand and one of the verifier's own. It costs k drafter steps and a verifier forward over k + 1 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from lts_ray.errors import LtsRayError

ADAPTIVE = "adaptive"
Length = int | str
"""A number of tokens, or `ADAPTIVE`."""


def parse_length(text: str) -> Length:
    """Raises LtsRayError for what is neither a number nor `ADAPTIVE`."""
    if text == ADAPTIVE:
        return text
    if not (text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise LtsRayError(f"a draft length is a number of tokens of at least 1, or {ADAPTIVE}; got {text!r}")
    return int(text)


class DraftLength(Protocol):
    """A rule: frozen state in, new state out."""

    @property
    def tokens(self) -> int:
        """How many to draft next; 0 is plain decoding."""
        ...

    def after(self, *, drafted: int, accepted: int) -> DraftLength:
        """The rule once it has seen a round."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """Always the same."""

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise LtsRayError(f"a draft has 0 tokens or more; got {self.tokens}")

    def after(self, *, drafted: int, accepted: int) -> FixedLength:
        return self


@dataclass(frozen=True, kw_only=True)
class DraftCosts:
    """In any one unit of time."""

    draft: float
    """A drafter's step."""
    verify: tuple[float, ...]
    """At place k, the verifier's forward over k + 1 tokens."""

    def __post_init__(self) -> None:
        if not self.verify or any(not math.isfinite(cost) or cost <= 0 for cost in (self.draft, *self.verify)):
            raise LtsRayError(f"costs are positive numbers, at least one of them to verify; got {self}")

    @property
    def longest(self) -> int:
        """The longest draft whose cost is known."""
        return len(self.verify) - 1

    def speed(self, acceptance: float, length: int) -> float:
        """Expected tokens per plain step's time; 1 is plain decoding."""
        cost = length * self.draft + self.verify[length]
        return self.verify[0] * expected_tokens(acceptance, length) / cost

    def best_length(self, acceptance: float) -> int:
        """The fastest, the shortest among equals; 0 where no draft gains."""
        return max(range(self.longest + 1), key=lambda length: self.speed(acceptance, length))

    @property
    def reason_not_to_draft(self) -> str:
        """For a person, where `best_length` is 0."""
        if not self.longest:
            return "the response is too short to draft for"
        draft, verify = self.draft / self.verify[0], self.verify[1] / self.verify[0]
        return (
            f"a drafted token costs {draft:.2f} of a step here and verifying one {verify:.2f}, so no draft would gain"
        )

    @property
    def break_even(self) -> float:
        """The acceptance above which some length gains; above 1 where none ever does."""
        worth = [length for length in range(1, self.longest + 1) if self.speed(1.0, length) > 1]
        return min((self._break_even(length) for length in worth), default=math.inf)

    def _break_even(self, length: int) -> float:
        """By bisection: speed grows with acceptance, and is above 1 at an acceptance of 1."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.speed(middle, length) > 1 else (middle, high)
        return high


def expected_tokens(acceptance: float, length: int) -> float:
    """Of a round: (1 - a^(k+1)) / (1 - a), also where a is 1."""
    return math.fsum(acceptance**place for place in range(length + 1))


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """The length that pays at the acceptance seen, recent rounds counting most."""

    costs: DraftCosts
    accepted: float = 0.0
    """How many drafted tokens stood; older rounds count less."""
    rejected: float = 0.0
    """How many fell."""
    memory: float = 0.98
    """Every round multiplies both counts by it before it adds its own."""
    prior: tuple[float, float] = (4.0, 1.0)
    """Added to the counts, and does not fade: after a while of plain decoding, a draft is worth another try. It weighs
    as much as five drafted tokens, so that one that falls early does not end drafting where four of five stand."""

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise LtsRayError(f"memory must be above 0 and at most 1; got {self.memory}")
        if min(self.prior) <= 0 or min(self.accepted, self.rejected) < 0:
            raise LtsRayError(f"counts must be positive; got {self.accepted}, {self.rejected} over {self.prior}")

    @property
    def acceptance(self) -> float:
        accepted, rejected = self.prior[0] + self.accepted, self.prior[1] + self.rejected
        return accepted / (accepted + rejected)

    @cached_property
    def tokens(self) -> int:
        return self.costs.best_length(self.acceptance)

    def after(self, *, drafted: int, accepted: int) -> Adaptive:
        """Tokens behind the first that fell were not judged, and do not count."""
        return replace(
            self,
            accepted=self.memory * self.accepted + accepted,
            rejected=self.memory * self.rejected + (accepted < drafted),
        )
