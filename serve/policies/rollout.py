"""Which requests run in which step until all have ended, if no other comes: from event to event, without durations.

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
    """Rows that sit out most steps."""

    ids: frozenset[int] = frozenset()
    """Of their requests."""
    every: int = 1
    """They run in each so-many-th step."""
    wait: int = 0
    """Steps without them before the first one with them."""


NONE_HELD = Holding()


class RolloutRow:
    """A job during the rollout: `kind` of width, `held` if it is held back once it decodes.

    `first` and `last` are how many stretches of the rollout there are when these tokens come.
    """

    __slots__ = ("cached", "decodes", "first", "held", "kind", "last", "left", "pending")

    def __init__(self, job: Job, kind: int, held: bool) -> None:
        self.kind, self.held = kind, held
        self.cached, self.pending, self.left = job.cached, job.pending, job.remaining
        self.decodes = job.produced > 0 and self.pending == 1  # as Job.decodes
        self.first = self.last = 0


class _Crew:
    """Rows that decode together. Each ends after a number of steps that is known when it joins.

    `rows` counts them by kind, `context` the places that their caches hold. `ends` is a heap of (the count of `steps`
    at which the row ends, a number against ties, row).
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

    def advance(self, steps: int, stretches: int) -> None:
        """stretches: how many there are with these steps."""
        self.steps += steps
        self.context += steps * self.size
        while self.ends and self.ends[0][0] <= self.steps:
            row = heappop(self.ends)[2]
            row.last = stretches
            self.rows[row.kind] -= 1
            self.size -= 1
            self.context -= row.cached + row.left


@dataclass(kw_only=True)
class Rollout:
    """All steps to come, cut into stretches: within one, each step has the same rows.

    Each list below has a number for each stretch, so that all stretches are priced at once.
    """

    kinds: int
    """How many different shapes there are."""
    capacity: Capacity
    steps: list[int] = field(default_factory=list)
    """How many the stretch has."""
    rows: list[list[int]] = field(default_factory=list)
    """Of one step, by the kind of width."""
    attended: list[float] = field(default_factory=list)
    """Tokens that rows with logits attend to, in all steps of the stretch together."""
    prompt_attended: list[float] = field(default_factory=list)
    """Tokens that all other rows attend to, in all steps of the stretch together."""
    logits: list[list[int]] = field(default_factory=list)
    """Rows of one step that want logits, by the kind of width."""

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
            elif free.size or held.size:  # rows are held for the sake of others only
                crew = free if free.size else held
                steps = crew.until_end()
                self._note(steps, *_together(crew, None)[:2])
                crew.advance(steps, len(self.steps))
                wait = 0
            else:
                return

    def _prompts(self, prompts: list[RolloutRow], free: _Crew, held: _Crew | None) -> None:
        """One step with as much of the prompts as fits, from the first on; complete ones decode from then on."""
        rows, decoded, decoding = _together(free, held)
        logits = rows.copy()
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
            logits[row.kind] += row.pending == 0
            room -= taken
            if not room:
                break
        self._note(1, rows, attended, logits, prompt_attended)
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

        In which order they alternate changes no result; what they attend to differs by less than a step's worth.
        """
        steps = min(free.until_end(), wait + (held.until_end() - 1) * every + 1)
        joint = 0 if steps <= wait else (steps - 1 - wait) // every + 1
        for count, company in ((steps - joint, None), (joint, held)):
            if count:
                self._note(count, *_together(free, company)[:2])
        free.advance(steps, len(self.steps))
        held.advance(joint, len(self.steps))
        return (wait - steps) % every

    def _note(
        self,
        steps: int,
        rows: list[int],
        attended: float,
        logits: list[int] | None = None,
        prompt_attended: float = 0.0,
    ) -> None:
        """attended: in the first of the steps; in each later one, every row that decodes attends to one token more.

        logits: None where all rows want them.
        """
        logits = rows if logits is None else logits
        self.steps.append(steps)
        self.rows.append(rows)
        self.attended.append(steps * attended + sum(logits) * steps * (steps - 1) // 2)
        self.prompt_attended.append(prompt_attended)
        self.logits.append(logits)


def _together(free: _Crew, held: _Crew | None) -> tuple[list[int], int, int]:
    """Rows by kind; the tokens that they attend to, themselves included; rows in all."""
    if held is None:
        return free.rows.copy(), free.context + free.size, free.size
    rows = [one + other for one, other in zip(free.rows, held.rows, strict=True)]
    size = free.size + held.size
    return rows, free.context + held.context + size, size
