"""One step of the engine as the scheduler puts it together: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import Group
from serve.policies.menu import Option


@dataclass(slots=True)
class Part:
    """What a step runs of one request. Not to be changed; see Segment."""

    id: int
    segment: Segment
    option: Option


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    parts: tuple[Part, ...]
    """Those that continue a response first."""
    groups: tuple[Group, ...]
    """Of the parts, as the costs see them."""
    quiet_ms: float
    """What the step costs on a quiet node."""
    predicted_ms: float
    preempted: tuple[int, ...]
    """Requests that have lost their blocks and wait again."""
    reused_tokens: int
    """Tokens that requests which start in this step need not run."""
    switches: int
    """Responses whose width changes in their middle."""
    decoded: int
    """Parts that continue a response; all others are pieces of prompts, or of what runs a second time."""
    reads_prompt: bool
    """As the costs tell it: a prompt's last token alone is like any row that wants logits."""

    @property
    def wanting(self) -> list[Part]:
        """The parts that make a token."""
        return [part for part in self.parts if part.segment.wants_logits]

    @property
    def prompt_tokens(self) -> int:
        return sum(group.rows for group in self.groups) - self.decoded


def groups_of(parts: Sequence[Part]) -> tuple[Group, ...]:
    """For each width and precision one of the rows that continue a response, and one of the pieces of prompts."""
    sums: dict[tuple[int, int, bool], list[int]] = {}
    for part in parts:
        segment = part.segment
        rows = len(segment.tokens)
        key = (part.option.neurons, part.option.planes, rows > segment.wants_logits)
        total = sums.get(key)
        if total is None:
            total = sums[key] = [0, 0, 0]
        total[0] += rows
        total[1] += rows * segment.start + rows * (rows + 1) // 2  # each row looks at what is before it, and at itself
        total[2] += segment.wants_logits
    totals = sums.items()
    return tuple([Group(neurons, rows, seen, logits, planes) for (neurons, planes, _), (rows, seen, logits) in totals])
