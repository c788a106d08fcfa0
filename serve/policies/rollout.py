"""Who runs in which step until everybody has ended, if nobody else comes: from event to event, without durations.

An event is a piece of a prompt, or that a response ends. Between events steps are alike, so they are counted, not
made. Every request is taken to produce all that it may; blocks of the KV cache are taken to suffice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from serve.policies.capacity import Capacity
from serve.policies.policy import Job


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Rows that sit out most steps. ids: whose. every: they run in each so-many-th step, first after `wait` others."""

    ids: frozenset[int] = frozenset()
    every: int = 1
    wait: int = 0


NOBODY = Holding()


class RolloutRow:
    """A job during the rollout. kind: of width. held: whether it is held back once it decodes.

    first, last: how many records have been written when these tokens come.
    """

    __slots__ = ("cached", "decodes", "first", "held", "kind", "last", "left", "pending")

    def __init__(self, job: Job, kind: int, held: bool) -> None:
        self.kind, self.held = kind, held
        self.cached, self.pending, self.left = job.cached, job.pending, job.remaining
        self.decodes = job.decodes
        self.first = self.last = 0


class _Crew:
    """Rows that decode together. steps: that they have run; whoever ends does so at a count of them, known ahead.

    rows: by kind. context: places that their caches hold. ends: a heap of (steps, a number against ties, row).
    """

    __slots__ = ("context", "ends", "joined", "rows", "size", "steps")

    def __init__(self, kinds: int) -> None:
        self.rows = [0] * kinds
        self.size = self.steps = self.context = self.joined = 0
        self.ends: list[tuple[int, int, RolloutRow]] = []

    def join(self, row: RolloutRow) -> None:
        heappush(self.ends, (self.steps + row.left, self.joined, row))
        self.rows[row.kind] += 1
        self.joined += 1
        self.size += 1
        self.context += row.cached

    def until_end(self) -> int:
        """Steps until the next one ends."""
        return self.ends[0][0] - self.steps

    def advance(self, steps: int, records: int) -> None:
        """records: how many have been written with these steps."""
        self.steps += steps
        self.context += steps * self.size
        while self.ends and self.ends[0][0] <= self.steps:
            row = heappop(self.ends)[2]
            row.last = records
            self.rows[row.kind] -= 1
            self.size -= 1
            self.context -= row.cached + row.left


@dataclass(kw_only=True)
class Rollout:
    """In columns: one record stands for `steps` equal steps but for the tokens that they look at.

    kinds: of widths. rows: of each kind. logits: rows that want them.
    attended, prompt_attended: by all the record's steps together, what rows with logits look at and what others do.
    """

    kinds: int
    capacity: Capacity
    steps: list[int] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    attended: list[float] = field(default_factory=list)
    prompt_attended: list[float] = field(default_factory=list)
    logits: list[int] = field(default_factory=list)

    def roll(self, running: Sequence[RolloutRow], waiting: Sequence[RolloutRow], holding: Holding) -> None:
        """Sets the rows' first and last."""
        free, held = _Crew(self.kinds), _Crew(self.kinds)
        for row in running:
            if row.decodes:
                (held if row.held else free).join(row)
        prompts = [row for row in running if not row.decodes]
        newcomers, every, wait = deque(waiting), holding.every, holding.wait
        while True:
            while newcomers and len(prompts) + free.size + held.size < self.capacity.slots:
                prompts.append(newcomers.popleft())
            if prompts:
                self._prompts(prompts, free, held if wait == 0 else None)
                wait = (wait - 1) % every
            elif free.size and held.size:
                wait = self._apart(free, held, every, wait)
            elif free.size or held.size:  # nobody is held where there is nobody to be held for
                crew = free if free.size else held
                steps = crew.until_end()
                self._note(steps, *_together(crew, None))
                crew.advance(steps, len(self.steps))
                wait = 0
            else:
                return

    def _prompts(self, prompts: list[RolloutRow], free: _Crew, held: _Crew | None) -> None:
        """One step with as much of the prompts as fits, from the first on; who is complete decodes from here on."""
        rows, decoded, decoding = _together(free, held)
        room, done = max(1, self.capacity.chunk_tokens - decoding), 0
        attended, prompt_attended = float(decoded), 0.0
        for row in prompts:
            taken = min(room, row.pending)
            rows[row.kind] += taken
            looked = taken * row.cached + taken * (taken + 1) // 2
            row.pending -= taken
            row.cached += taken
            with_logits = 0 if row.pending else looked / taken  # as Group.decoded has it
            attended += with_logits
            prompt_attended += looked - with_logits
            done += row.pending == 0
            room -= taken
            if not room:
                break
        self._note(1, rows, attended, decoding + done, prompt_attended)
        free.advance(1, len(self.steps))
        if held is not None:
            held.advance(1, len(self.steps))
        for row in prompts[:done]:
            row.first = row.last = len(self.steps)
            row.left -= 1
            if row.left:
                free.join(row)
        del prompts[:done]

    def _apart(self, free: _Crew, held: _Crew, every: int, wait: int) -> int:
        """Steps until one of either crew ends: those of `free` alone, then those of both. Returns what is left to wait.

        That they alternate matters to nobody in between; what they look at differs by less than a step's worth.
        """
        steps = min(free.until_end(), wait + (held.until_end() - 1) * every + 1)
        joint = 0 if steps <= wait else (steps - 1 - wait) // every + 1
        for count, company in ((steps - joint, None), (joint, held)):
            if count:
                self._note(count, *_together(free, company))
        free.advance(steps, len(self.steps))
        held.advance(joint, len(self.steps))
        return (wait - steps) % every

    def _note(self, steps: int, rows: list[int], attended: float, logits: int, prompt_attended: float = 0.0) -> None:
        """attended: in the first of the steps; in each later one, every row that decodes looks at one token more."""
        self.steps.append(steps)
        self.rows.append(rows)
        self.attended.append(steps * attended + logits * steps * (steps - 1) // 2)
        self.prompt_attended.append(prompt_attended)
        self.logits.append(logits)


def _together(free: _Crew, held: _Crew | None) -> tuple[list[int], int, int]:
    """Rows by kind; the tokens that they look at, themselves included; rows in all."""
    if held is None:
        return free.rows.copy(), free.context + free.size, free.size
    rows = [one + other for one, other in zip(free.rows, held.rows, strict=True)]
    size = free.size + held.size
    return rows, free.context + held.context + size, size
