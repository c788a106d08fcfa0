"""What is wanted of the deadline policy, and whether a bench's rows have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load.contestants import NARROWEST, UNIVERSAL
from benchmarks.policies_settings import Mode
from benchmarks.policies_summary import Row

OURS = "deadline"
MOST_BEHIND = 0.01
"""Attainment that may be given up for quality."""
OVERLOAD, TIMES_UNIVERSAL = 1.5, 2.5
LIGHT, UNIVERSAL_TOKENS, LIGHT_ATTAINMENT = 0.5, 0.95, 0.99


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """text: one line, with what was found and what is wanted."""

    mode: Mode
    load: float
    holds: bool
    text: str

    @property
    def line(self) -> str:
        return f"{'holds' if self.holds else 'MISSED'}, {self.mode}, at {self.load:g}×: {self.text}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verdicts_of(rows: Sequence[Row]) -> list[Verdict]:
    """rows: over all traces. Only what can be said of the policies and loads that are in them."""
    found: list[Verdict] = []
    by_load: dict[tuple[Mode, float], dict[str, Row]] = {}
    for row in rows:
        by_load.setdefault((row.mode, row.load), {})[row.policy] = row
    for (mode, load), policies in by_load.items():
        ours = policies.get(OURS)
        if ours is None or ours.attainment is None:
            continue
        said = [_beside(ours, policies.get(name)) for name in ("slackfit", "smallest", NARROWEST)]
        said.append(_quality(ours, policies.get("slackfit")))
        if load == OVERLOAD:
            said.append(_overload(ours, policies.get(UNIVERSAL)))
        if load == LIGHT:
            said += [_light_attainment(ours), _light_quality(ours)]
        found += [Verdict(mode=mode, load=load, holds=each[0], text=each[1]) for each in said if each is not None]
    return found


def _beside(ours: Row, other: Row | None) -> tuple[bool, str] | None:
    if other is None or other.attainment is None or ours.attainment is None:
        return None
    least = other.attainment.mean - MOST_BEHIND
    text = f"attainment {100 * ours.attainment.mean:.1f} %, {other.policy}'s {100 * other.attainment.mean:.1f} %"
    if other.policy == NARROWEST:
        text += " (which answers requests without a budget as narrowly)"
    return ours.attainment.mean >= least, f"{text}; wanted at least {100 * least:.1f} %"


def _quality(ours: Row, other: Row | None) -> tuple[bool, str] | None:
    if other is None:
        return None
    text = f"loss {ours.loss.mean:.4f}, {other.policy}'s {other.loss.mean:.4f}"
    if other.universal_share is not None and other.universal_share.mean == 1 and other.rejected.mean == 0:
        return round(ours.loss.mean, 3) <= round(other.loss.mean, 3), f"{text}, the universal model's; wanted the same"
    return ours.loss.mean < other.loss.mean, f"{text}; wanted less"


def _overload(ours: Row, universal: Row | None) -> tuple[bool, str] | None:
    if universal is None or universal.attainment is None or ours.attainment is None:
        return None
    base = universal.attainment.mean
    times = "more than any number of" if base == 0 else f"{ours.attainment.mean / base:.2f}"
    holds = ours.attainment.mean >= TIMES_UNIVERSAL * base and ours.attainment.mean > 0
    return holds, f"{times} times the attainment of the universal model; wanted {TIMES_UNIVERSAL:g}"


def _light_attainment(ours: Row) -> tuple[bool, str] | None:
    if ours.attainment is None:
        return None
    holds = ours.attainment.mean >= LIGHT_ATTAINMENT
    return holds, f"attainment {100 * ours.attainment.mean:.2f} %; wanted {100 * LIGHT_ATTAINMENT:g} %"


def _light_quality(ours: Row) -> tuple[bool, str] | None:
    if ours.universal_share is None:
        return None
    holds = ours.universal_share.mean >= UNIVERSAL_TOKENS
    text = f"{100 * ours.universal_share.mean:.1f} % of the tokens are the universal model's"
    return holds, f"{text}; wanted {100 * UNIVERSAL_TOKENS:g} %"
