"""One step of the engine as the scheduler puts it together: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import Group
from serve.policies.menu import Option


@dataclass(frozen=True, slots=True)
class Part:
    """What a step runs of one request."""

    id: int
    segment: Segment
    option: Option


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    parts: tuple[Part, ...]
    predicted_ms: float
    preempted: tuple[int, ...]
    """Requests that have lost their blocks and wait again."""
    reused_tokens: int
    """Tokens that requests which start in this step need not run."""
    switches: int
    """Responses whose width changes in their middle."""
    decoded: int
    """Parts that continue a response; all others are pieces of prompts, or of what runs a second time."""

    @property
    def prompt_tokens(self) -> int:
        return sum(len(part.segment.tokens) for part in self.parts) - self.decoded

    @property
    def reads_prompt(self) -> bool:
        """As the costs tell it: a prompt's last token alone is like any row that wants logits."""
        return any(len(part.segment.tokens) > part.segment.wants_logits for part in self.parts)

    def groups(self) -> tuple[Group, ...]:
        return groups_of(self.parts)


def groups_of(parts: Sequence[Part]) -> tuple[Group, ...]:
    """For each width one of the rows that continue a response, and one of the pieces of prompts."""
    sums: dict[tuple[str, bool], list[int]] = {}
    neurons: dict[str, int] = {}
    for part in parts:
        segment, name = part.segment, part.option.name
        rows = len(segment.tokens)
        neurons[name] = part.option.neurons
        total = sums.setdefault((name, rows > segment.wants_logits), [0, 0, 0])
        total[0] += rows
        total[1] += rows * segment.start + rows * (rows + 1) // 2  # each row looks at what is before it, and at itself
        total[2] += segment.wants_logits
    return tuple(Group(neurons[name], *total) for (name, _), total in sums.items())
