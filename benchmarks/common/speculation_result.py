"""What drafts gained over the verifier alone, what single forwards cost, and what follows for each draft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.common.machine import Machine
from lts_ray.decoding.draft_length import ADAPTIVE, DraftCosts, Length
from lts_ray.decoding.speculative import Statistics

SCHEMA = 1
GAIN = 1.02
"""A smaller gain may be the clock's."""


@dataclass(frozen=True, order=True, kw_only=True)
class DraftSetting:
    draft: str
    shared: bool
    length: Length


@dataclass(frozen=True, kw_only=True)
class DraftSpeed:
    setting: DraftSetting
    statistics: Statistics
    speed: float
    """The verifier's own time over that with drafts."""
    predicted_speed: float
    """By the costs of single forwards, for the rounds it had."""
    same: int
    """Responses that are the verifier's token for token. Greedy, all are, but for logits that round apart."""

    def to_json(self) -> dict[str, Any]:
        shares = ("acceptance", "accepted_share", "tokens_per_step")
        statistics = {name: getattr(self.statistics, name) for name in shares}
        own = {"speed": self.speed, "predicted_speed": self.predicted_speed, "same": self.same}
        return asdict(self.setting) | statistics | own


@dataclass(frozen=True, kw_only=True)
class SpeculationResult:
    verifier: str
    asked: Mapping[str, Any]
    """How all that is compared was decoded."""
    token_ms: float
    """Of the verifier alone."""
    costs: Mapping[str, DraftCosts]
    """By draft, in seconds; the first of `verify` is the verifier's plain step."""
    rows: tuple[DraftSpeed, ...]
    machine: Machine

    def sharing_gain(self, draft: str) -> float | None:
        """Median over the lengths of shared speed over separate speed; None where only one of them was measured."""
        speeds = {(row.setting.length, row.setting.shared): row.speed for row in self.rows_of(draft)}
        both = [length for length, shared in speeds if shared and (length, False) in speeds]
        gains = [speeds[length, True] / speeds[length, False] for length in both]
        return median(gains) if gains else None

    def rows_of(self, draft: str) -> list[DraftSpeed]:
        return [row for row in self.rows if row.setting.draft == draft]

    def verdict(self, draft: str) -> str:
        """Whether the draft gains here, with which length, and what decides that."""
        rows, costs = self.rows_of(draft), self.costs[draft]
        best = max(rows, key=lambda row: row.speed)
        length, step = best.setting.length, costs.draft / costs.verify[0]
        stand = max(row.statistics.acceptance for row in rows)
        cost = f"a drafted token costs {step:.2f} of a step of {self.verifier}"
        how = f"{length} length" if length == ADAPTIVE else f"length {length}"
        at = f"{best.speed:.2f}x with {how} and a {'shared' if best.setting.shared else 'separate'} cache"
        if best.speed >= GAIN:
            return f"{draft} gains: {at}; {cost}, and up to {stand:.2f} of the tokens stand"
        if costs.break_even > 1:
            return f"{draft} cannot gain: {cost}, too much even if every token stood; best: {at}"
        needed = f"{costs.break_even:.2f} of its tokens have to stand"
        return f"{draft} does not gain: {cost}, so {needed}, and at most {stand:.2f} do; best: {at}"

    def to_json(self) -> dict[str, Any]:
        """Costs are in plain steps of the verifier."""
        costs = {
            draft: {
                "draft": costs.draft / costs.verify[0],
                "verify": [verify / costs.verify[0] for verify in costs.verify],
                "break_even": None if costs.break_even > 1 else costs.break_even,
            }
            for draft, costs in self.costs.items()
        }
        rows = [row.to_json() for row in self.rows]
        asked = {"schema": SCHEMA, "machine": asdict(self.machine), "verifier": self.verifier, **self.asked}
        return asked | {"token_ms": self.token_ms, "costs": costs, "rows": rows}
