"""What requests ask of latency: three classes and none, in multiples of what the universal model needs when idle.

So the same load can be made for every model and node. A class is feasible for the universal model alone: what makes a
budget hard is company. "Idle" is with one thing in the way: the largest step that another's prompt can make, which has
begun right before the request comes. Without it, a short prompt's budget would be missed by any request in company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError
from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.policies.menu import Option

NO_CLASS = "none"
BOUNDS: Sequence[tuple[str, ...]] = (("ttft", "tpot"), ("e2e",), ("tpot",), ("ttft", "e2e"))
"""What a request with a budget may bound; each as often as the others."""


@record(what="budgets")
class BudgetClasses:
    """Each class's multiple. Each request draws its class: all are as likely, `none` with them."""

    tight: float = 2.0
    """Multiple of what the universal model needs on an idle engine."""
    medium: float = 4.0
    """The same, of the middle class."""
    loose: float = 8.0
    """The same, of the loosest class."""

    def __post_init__(self) -> None:
        if not 0 < self.tight < self.medium < self.loose:
            raise LtsRayError(
                f"budgets must be growing multiples above 0; got {self.tight:g}, {self.medium:g}, {self.loose:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one request takes on a node, with one chunk of another's prompt in its way."""

    costs: StepCosts
    option: Option
    """The submodel that answers."""
    chunk_tokens: int
    """The most tokens of a step."""

    def alone(self, prompt_tokens: int, output_tokens: int) -> Timing:
        """Of a request that nothing is in the way of."""
        chunks = pairwise([*range(0, prompt_tokens, self.chunk_tokens), prompt_tokens])
        prefill_ms = sum(self._step_ms(begin, end, last=end == prompt_tokens) for begin, end in chunks)
        first, last = (
            self._step_ms(at, at + 1, last=True) for at in (prompt_tokens, prompt_tokens + output_tokens - 2)
        )
        tpot_ms = (first + last) / 2 if output_tokens > 1 else 0.0  # the mean: a row's cost grows by the same each time
        return Timing(ttft_ms=prefill_ms, tpot_ms=tpot_ms, e2e_ms=prefill_ms + (output_tokens - 1) * tpot_ms)

    def timing(self, prompt_tokens: int, output_tokens: int) -> Timing:
        alone = self.alone(prompt_tokens, output_tokens)
        chunk_ms = self._step_ms(0, self.chunk_tokens, last=True)
        return Timing(
            ttft_ms=alone.ttft_ms + chunk_ms,
            tpot_ms=alone.tpot_ms + chunk_ms / max(1, output_tokens - 1),
            e2e_ms=alone.e2e_ms + chunk_ms,
        )

    def _step_ms(self, begin: int, end: int, *, last: bool) -> float:
        """A step of the places begin … end - 1 of one sequence; each looks at itself and those before it."""
        rows = end - begin
        attended = rows * (begin + end + 1) // 2
        return self.costs.step_ms([self.option.group(rows, attended, int(last))])


def draw_budgets(
    lengths: NDArray[np.int64], rng: np.random.Generator, *, need: Need, classes: BudgetClasses
) -> list[tuple[str, Budget]]:
    """lengths: [N, 2], as `draw_lengths` gives them. Returns each request's class and budget."""
    names = [*asdict(classes), NO_CLASS]
    drawn = (rng.uniform(size=(len(lengths), 2)) * (len(names), len(BOUNDS))).astype(np.int64)
    return [
        (names[which], _budget(names[which], BOUNDS[kinds], need.timing(int(prompt), int(output)), classes))
        for (which, kinds), (prompt, output) in zip(drawn, lengths, strict=True)
    ]


def _budget(name: str, kinds: tuple[str, ...], timing: Timing, classes: BudgetClasses) -> Budget:
    if name == NO_CLASS:
        return NO_BUDGET
    return Budget(**{f"{kind}_ms": getattr(classes, name) * getattr(timing, f"{kind}_ms") for kind in kinds})
