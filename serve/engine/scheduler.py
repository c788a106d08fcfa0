"""Continuous batching with chunked prefill: what runs in the next step. Ids and numbers only: no torch, no clock.

A step has one row of every response that the policy does not hold back, and pieces of prompts up to a bound, so that no
prompt stops the responses for long. Which width and which prompt first is the policy's to say; what fits is decided
here. When the cache is full, the request that arrived last gives up its blocks and waits again, with what it has
produced; later this is run as its prompt, and it goes on. So the oldest one always gets on, and none is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lts_ray.errors import LtsRayError
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.submodel import Submodel
from serve.engine.blocks import Blocks, blocks_for
from serve.engine.step import Part, Step, groups_of
from serve.policies.budget import Budget
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Policy, Situation

__all__ = ["Part", "Scheduler", "Step"]

NOBODY: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class _Entry:
    """A request. tokens: of its prompt and what it has produced. job: as policies see it; None once that is stale."""

    id: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    budget: Budget
    pinned: Option | None
    arrived_ms: float
    cached: int = 0
    first_ms: float | None = None
    option: Option | None = None
    job: Job | None = None

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.cached

    @property
    def decodes(self) -> bool:
        return len(self.tokens) == self.cached + 1 > self.prompt_tokens

    def as_job(self) -> Job:
        if self.job is None:
            self.job = Job(
                id=self.id,
                arrived_ms=self.arrived_ms,
                budget=self.budget,
                prompt_tokens=self.prompt_tokens,
                max_tokens=self.max_tokens,
                cached=self.cached,
                produced=len(self.tokens) - self.prompt_tokens,
                first_ms=self.first_ms,
                option=self.option,
                pinned=self.pinned,
            )
        return self.job


class Scheduler:
    """Not for two threads at once. `step`, then `took` once it has run; requests come and go at any time."""

    def __init__(
        self,
        *,
        menu: Menu,
        policy: Policy,
        slots: int,
        max_queue: int,
        chunk_tokens: int,
        n_blocks: int,
        prefix_cache: bool = True,
    ) -> None:
        """slots: the most requests that run at once. chunk_tokens: the most tokens of one step."""
        if chunk_tokens < slots:
            raise LtsRayError(f"chunk_tokens must be at least the {slots} requests of a step; got {chunk_tokens}")
        self.policy = policy
        self.slots, self.max_queue, self.chunk_tokens = slots, max_queue, chunk_tokens
        self._menu = menu
        self._blocks = Blocks(n_blocks, prefix_cache=prefix_cache)
        self._running: dict[int, _Entry] = {}
        self._waiting: OrderedDict[int, _Entry] = OrderedDict()

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[int, ...]:
        return tuple(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def kv_usage(self) -> float:
        """The share of the blocks that running requests hold."""
        return 1 - self._blocks.available / self._blocks.n_blocks

    def add(
        self,
        id: int,
        *,
        prompt: tuple[int, ...],
        max_tokens: int,
        budget: Budget,
        pinned: Option | None,
        arrived_ms: float,
    ) -> bool:
        """Queue a request; False, and nothing kept, when the queue is full.

        Raises LtsRayError for a request that the cache could not hold even alone.
        """
        needed = blocks_for(len(prompt) + max_tokens - 1)  # the last token is never run
        if needed > self._blocks.n_blocks:
            raise LtsRayError(
                f"{len(prompt)} prompt tokens and max_tokens {max_tokens} need {needed} blocks of {BLOCK_TOKENS} "
                f"places, but the KV cache has {self._blocks.n_blocks}: ask for fewer tokens"
            )
        if len(self._waiting) >= self.max_queue:
            return False
        self._waiting[id] = _Entry(
            id=id,
            tokens=list(prompt),
            prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            budget=budget,
            pinned=pinned,
            arrived_ms=arrived_ms,
        )
        return True

    def remove(self, id: int) -> None:
        """Take a request out, wherever it is. Unknown ids are no error: a client may cancel what has just ended."""
        if self._running.pop(id, None) is not None:
            self._blocks.close(id)
        else:
            self._waiting.pop(id, None)

    def situation(self, now_ms: float) -> Situation:
        return Situation(
            now_ms=now_ms,
            running=tuple([entry.as_job() for entry in self._running.values()]),
            waiting=tuple([entry.as_job() for entry in self._waiting.values()]),
            slots=self.slots,
            chunk_tokens=self.chunk_tokens,
        )

    def step(self, now_ms: float, costs: StepCosts) -> Step | None:
        """What runs next, or None when there is nothing to do.

        A step that could not be run may be asked for again: nothing counts as cached before `took`.
        """
        if not self.has_work:
            return None
        plan = self.policy.plan(self.situation(now_ms), self._menu, costs)
        preempted = self._make_room(plan.held)
        parts, reused = self._parts(plan, plan.held, admits=not preempted)
        if not parts and plan.held:  # a step of nobody would never end: the plan holds more than it may
            preempted += self._make_room(NOBODY)
            parts, reused = self._parts(plan, NOBODY, admits=False)
        assert parts, f"the policy {self.policy.name} lets nobody run"
        decoding = [part for part in parts if self._running[part.id].decodes]
        return Step(
            parts=tuple(parts),
            predicted_ms=costs.step_ms(groups_of(parts)),
            preempted=preempted,
            reused_tokens=reused,
            switches=sum(_switches(self._running[part.id].option, part.option) for part in decoding),
            decoded=len(decoding),
        )

    def took(self, step: Step, tokens: Mapping[int, int], now_ms: float) -> None:
        """The step has run. tokens: what each part that wanted logits made. Requests that have left are passed over.

        The caller removes those that have ended, at max_tokens or before, ahead of the next step.
        """
        for part in step.parts:
            entry = self._running.get(part.id)
            if entry is None:
                continue
            segment = part.segment
            entry.cached, entry.option, entry.job = segment.stop, part.option, None
            self._blocks.wrote(part.id, entry.tokens, segment.stop, segment.submodel)
            if segment.wants_logits:
                entry.tokens.append(tokens[part.id])
                if entry.first_ms is None:
                    entry.first_ms = now_ms

    def _make_room(self, held: Collection[int]) -> tuple[int, ...]:
        """See that every response that goes on has a place for its token. Returns who had to make room, if anybody."""
        preempted: list[int] = []
        full = [
            entry
            for entry in self._running.values()
            if entry.cached % BLOCK_TOKENS == 0 and entry.decodes and entry.id not in held
        ]
        for entry in sorted(full, key=_arrival):
            while entry.id in self._running and not self._blocks.grow(entry.id, entry.cached + 1):
                preempted.append(self._preempt())
        return tuple(preempted)

    def _preempt(self) -> int:
        """The request that arrived last goes back to the head of the queue."""
        last = max(self._running.values(), key=_arrival)
        self.remove(last.id)
        last.cached, last.job = 0, None
        self._waiting[last.id] = last
        self._waiting.move_to_end(last.id, last=False)
        return last.id

    def _parts(self, plan: Plan, held: Collection[int], *, admits: bool) -> tuple[list[Part], int]:
        """The step's parts, and the tokens that newcomers reuse. admits: whether there may be newcomers."""
        going = [entry for entry in self._running.values() if entry.id not in held]
        parts = [_part(entry, plan.options[entry.id], self._blocks, 1) for entry in going if entry.decodes]
        room, reused = self.chunk_tokens - len(parts), 0
        begun = [entry.id for entry in going if not entry.decodes]
        for id in [*(each for each in begun if each not in plan.order), *plan.order]:
            if not room:
                break
            entry = self._running.get(id)
            if entry is None:
                found = self._admit(id, plan.options[id].submodel) if admits else None
                if found is None:
                    admits = False  # whoever comes later in the order does not overtake
                    continue
                entry = self._running[id]
                reused += found
            elif id not in begun:
                continue
            tokens = min(room, entry.pending)
            parts.append(_part(entry, plan.options[id], self._blocks, tokens))
            room -= tokens
        return parts, reused

    def _admit(self, id: int, submodel: Submodel) -> int | None:
        """Let a waiting request run. Returns how many of its tokens the cache has; None if there is no room for it."""
        if len(self._running) >= self.slots:
            return None
        entry = self._waiting[id]
        # Those that run will soon want a block each: without these to spare, one would be preempted at once.
        found = self._blocks.open(id, entry.tokens, submodel, spare=len(self._running))
        if found is None:
            return None
        entry.cached, entry.job = found, None
        self._running[id] = self._waiting.pop(id)
        return found


def _arrival(entry: _Entry) -> tuple[float, int]:
    return entry.arrived_ms, entry.id


def _switches(before: Option | None, option: Option) -> bool:
    return before is not option and (before is None or before.submodel != option.submodel)


def _part(entry: _Entry, option: Option, blocks: Blocks, n: int) -> Part:
    """The next n tokens of the request."""
    start, stop = entry.cached, entry.cached + n
    segment = Segment(
        tokens=tuple(entry.tokens[start:stop]),
        start=start,
        blocks=blocks.table(entry.id)[: blocks_for(stop)],
        submodel=option.submodel,
        wants_logits=stop == len(entry.tokens),
    )
    return Part(entry.id, segment, option)
