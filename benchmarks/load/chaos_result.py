"""What faults have cost: every answer judged, and how long streams that had to move stood still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load.chaos_answer import ChaosAnswer

SCHEMA = 1
NEAR_S = 1.0
"""A client may see its connection break so long after the process at the other end was killed."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault that was done."""

    name: str
    at_s: float
    whole_s: float
    """When all processes were there again, and Ray Serve called the endpoint healthy."""
    process: str
    took_ingress: bool
    """Whether the process that clients' connections lead to died of it."""


def judge_answer(answer: ChaosAnswer, strikes: Sequence[Strike], wanted: Mapping[int, str]) -> str:
    """whole; error, where it says so; broken, where its own other end was killed. Neither of the rest is to be: wrong,
    other tokens than undisturbed; lost, neither an answer nor an error.

    wanted: undisturbed texts by the request's number; of one with a budget only the length is known.
    """
    if answer.error is not None:
        return "error"
    if answer.is_whole:
        known = answer.request.style == "budget" or answer.text == wanted[answer.request.number]
        return "whole" if known else "wrong"
    times = [strike.at_s for strike in strikes if strike.took_ingress]
    died = any(answer.sent_s - NEAR_S <= at_s <= answer.ended_s + NEAR_S for at_s in times)
    return "broken" if answer.broken is not None and died else "lost"


def pause_s(answer: ChaosAnswer, strikes: Sequence[Strike]) -> float | None:
    """The longest that a stream stood still after a fault, if it moved to another replica once it had begun: from the
    fault, or a token after it that was on its way already, to the next one."""
    if not answer.lts.get("migrations") or not answer.token_s:
        return None
    times = np.array(answer.token_s)
    during = [strike.at_s for strike in strikes if times[0] < strike.at_s < times[-1]]
    return float(np.diff([min(during), *times[times > min(during)]]).max()) if during else None


@dataclass(kw_only=True)
class ChaosResult:
    seed: int
    rate: float
    """Requests per second."""
    load: float
    """In multiples of the rate at which the endpoint worked off a backlog."""
    seconds: float = 0.0
    strikes: list[Strike] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """By their message."""
    pauses_s: list[float] = field(default_factory=list)
    budgets: Counter[str] = field(default_factory=Counter)
    """Of whole answers: kept or missed, between faults or near one."""
    searches: int = 0
    """That have come to their count."""
    evaluations: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, answer: ChaosAnswer, wanted: Mapping[int, str]) -> None:
        """Of an answer that has ended, after the last strike."""
        verdict = judge_answer(answer, self.strikes, wanted)
        self.answers[verdict] += 1
        if answer.error is not None:
            self.errors[answer.error] += 1
        if verdict in ("wrong", "lost"):
            self.violations.append(f"{verdict}: request {answer.request.number}: {answer.broken or answer.text!r}")
        if (pause := pause_s(answer, self.strikes)) is not None:
            self.pauses_s.append(pause)
        if verdict == "whole" and (met := answer.lts.get("budget_met")) is not None:
            near = any(each.at_s <= answer.ended_s and answer.sent_s <= each.whole_s for each in self.strikes)
            self.budgets[f"{'kept' if met else 'missed'} {'near' if near else 'between'}"] += 1

    def rows(self) -> list[dict[str, str]]:
        """For each kind of fault how often it was done, and the seconds until all was whole again."""
        rows = []
        for name in sorted({strike.name for strike in self.strikes}):
            lasted = [strike.whole_s - strike.at_s for strike in self.strikes if strike.name == name]
            shown = {"whole after, median": f"{np.median(lasted):.1f} s", "longest": f"{max(lasted):.1f} s"}
            rows.append({"fault": name, "times": str(len(lasted)), **shown})
        return rows

    def summary(self) -> dict[str, float | None]:
        """Shares of the budgets, and the milliseconds of the pauses."""
        shares: dict[str, float | None] = {}
        for where in ("between", "near"):
            kept, missed = self.budgets[f"kept {where}"], self.budgets[f"missed {where}"]
            shares[f"budgets kept {where} faults"] = kept / (kept + missed) if kept + missed else None
        pauses = 1e3 * np.quantile(self.pauses_s, [0.5, 0.99]) if self.pauses_s else (None, None)
        return shares | dict(zip(("fault to next token p50 ms", "fault to next token p99 ms"), pauses, strict=True))

    @property
    def lines(self) -> list[str]:
        return [
            f"{self.answers.total()} requests in {self.seconds / 60:.1f} minutes, {self.rate:.2f}/s ({self.load:g} of "
            f"saturation): {', '.join(f'{count} {verdict}' for verdict, count in self.answers.most_common())}",
            *(f"  error, {count} times: {message}" for message, count in self.errors.most_common()),
            f"{self.searches} searches at their count, {self.evaluations} evaluations; streams moved: "
            f"{len(self.pauses_s)}",
            *(f"{what}: {value:.3g}" for what, value in self.summary().items() if value is not None),
            f"violations: {len(self.violations)}",
        ]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **vars(self), "strikes": [vars(each) for each in self.strikes], **self.summary()}
