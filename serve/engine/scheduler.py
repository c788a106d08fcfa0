"""Continuous batching with chunked prefill: what runs in the next step. Ids and numbers only: no torch, no clock.

A step has one row of every response that the policy does not hold back, and pieces of prompts up to a bound, so that no
prompt stops the responses for long. Which width and which prompt first is the policy's to say; what fits is decided
here. When the cache is full, the request that arrived last gives up its blocks and waits again, with what it has
produced; later this is run as its prompt, and it goes on. So the oldest one always gets on, and none is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from math import inf

from lts_ray.errors import LtsRayError
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.submodel import Submodel
from serve.engine.blocks import Blocks, blocks_needed
from serve.engine.scheduled_request import ScheduledRequest
from serve.engine.step import Part, Step, groups_of
from serve.policies.capacity import Capacity
from serve.policies.deviation import NO_DEVIATION, Deviation
from serve.policies.menu import Menu
from serve.policies.policy import Job, Plan, Policy, Situation
from serve.policies.request import Request, Resumed


class Scheduler:
    """Not for two threads at once. `step`, then `took` once it has run; requests come and go at any time.

    A step that has only begun may be taken too, with `pending` for its tokens: the next one is planned as if it had
    run, and `made` says the tokens before the one after that is.
    """

    def __init__(
        self, *, menu: Menu, policy: Policy, capacity: Capacity, n_blocks: int, prefix_cache: bool = True
    ) -> None:
        """n_blocks: of the KV cache."""
        self.policy, self.capacity = policy, capacity
        self._menu = menu
        self._blocks = Blocks(n_blocks, prefix_cache=prefix_cache)
        self._running: dict[int, ScheduledRequest] = {}
        self._waiting: OrderedDict[int, ScheduledRequest] = OrderedDict()
        # What the policy has said of them, and when; None once a request has come, gone or read a part of its prompt.
        self._plan: tuple[Policy, float, Plan] | None = None

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[int, ...]:
        return tuple(self._waiting)

    @property
    def counts(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        return len(self._running), len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def kv_usage(self) -> float:
        """The share of the blocks that running requests hold."""
        return 1 - self._blocks.available / self._blocks.n_blocks

    def fits(self, request: Request) -> bool:
        """Whether the cache could hold it alone."""
        return _most_blocks(request) <= self._blocks.n_blocks

    def add(self, job: Job, resumed: Resumed | None = None) -> bool:
        """Queue a request that has not run here; False, and nothing kept, when the queue is full.

        resumed: what it has got elsewhere. It is taken as one that made room here is, whatever waits.
        Raises LtsRayError for a request that the cache could not hold even alone.
        """
        prompt, max_tokens = job.request.prompt, job.request.max_tokens
        if not self.fits(job.request):
            needed = _most_blocks(job.request)
            raise LtsRayError(
                f"{len(prompt)} prompt tokens and max_tokens {max_tokens} need {needed} blocks of {BLOCK_TOKENS} "
                f"places, but the KV cache has {self._blocks.n_blocks}: ask for fewer tokens"
            )
        self._plan = None
        if resumed is not None:
            first_ms = None if resumed.first_s is None else resumed.first_s * 1e3
            entry = ScheduledRequest(job.id, job.request, job.arrived_ms, [*prompt, *resumed.tokens], first_ms=first_ms)
            entry.produced = len(resumed.tokens)
            self._waiting[job.id] = entry
            begun = sorted((entry for entry in self._waiting.values() if entry.produced), key=_arrival, reverse=True)
            for entry in begun:
                self._waiting.move_to_end(entry.id, last=False)
            return True
        if len(self._waiting) >= self.capacity.max_queue:
            return False
        self._waiting[job.id] = ScheduledRequest(job.id, job.request, job.arrived_ms, list(prompt))
        return True

    def remove(self, id: int) -> None:
        """Take a request out, wherever it is. Unknown ids are no error: a client may cancel what has just ended."""
        self._plan = None
        if self._running.pop(id, None) is not None:
            self._blocks.close(id)
        else:
            self._waiting.pop(id, None)

    def situation(self, now_ms: float, deviation: Deviation = NO_DEVIATION) -> Situation:
        return Situation(
            now_ms=now_ms,
            deviation=deviation,
            running=tuple([entry.job for entry in self._running.values()]),
            waiting=tuple([entry.job for entry in self._waiting.values()]),
            capacity=self.capacity,
        )

    def step(self, now_ms: float, costs: StepCosts, deviation: Deviation = NO_DEVIATION) -> Step | None:
        """What runs next, or None when there is nothing to do. deviation: of time from what `costs` say.

        A step that could not be run may be asked for again: nothing counts as cached before `took`.
        """
        if not self.has_work:
            return None
        plan = self._planned(now_ms, costs, deviation)
        preempted = self._make_room(plan.held)
        parts, decoded, reused = self._parts(plan, plan.held, admits=not preempted)
        if not parts and plan.held:  # the plan holds more than it may: an empty step would never end
            preempted += self._make_room(())
            parts, decoded, reused = self._parts(plan, (), admits=False)
        assert parts, f"the policy {self.policy.name} lets no request run"
        groups = groups_of(parts)
        quiet_ms, reads_prompt = costs.quiet_ms(groups), any(group.rows > group.logits for group in groups)
        return Step(
            parts=tuple(parts),
            groups=groups,
            quiet_ms=quiet_ms,
            predicted_ms=costs.served_ms(quiet_ms, reads_prompt=reads_prompt),
            preempted=preempted,
            reused_tokens=reused,
            switches=sum([self._running[part.id].switches(part.option) for part in parts[:decoded]]),
            decoded=decoded,
            reads_prompt=reads_prompt,
        )

    def _planned(self, now_ms: float, costs: StepCosts, deviation: Deviation) -> Plan:
        if self._plan is not None:
            policy, made_ms, plan = self._plan
            if policy is self.policy and made_ms <= now_ms < plan.until_ms:
                return plan
        plan = self.policy.plan(self.situation(now_ms, deviation), self._menu, costs)
        self._plan = (self.policy, now_ms, plan)
        return plan

    def alike(self, step: Step) -> tuple[int, float]:
        """How many steps right after this one have the same rows at the same widths, each with one token more: as many
        as begin before the moment that is returned too, if no request comes or goes but at max_tokens.

        Ask before the step is taken. Then it may stand for all of them in `took`.
        """
        running = self._running.values()
        if step.decoded < len(running) or self._plan is None or step.preempted:
            return 0, -inf
        if self._waiting and len(running) < self.capacity.slots and step.decoded < self.capacity.chunk_tokens:
            return 0, -inf  # one of those that wait may join
        more = min([entry.request.max_tokens - entry.produced for entry in running]) - 1
        while more and self._missing(more + 1) > self._blocks.available:
            more //= 2
        return more, self._plan[2].until_ms

    def _missing(self, places: int) -> int:
        """Blocks for so many more of every sequence that runs."""
        entries = self._running.values()
        return sum([blocks_needed(entry.cached + places) - len(self._blocks.table(entry.id)) for entry in entries])

    def took(self, step: Step, tokens: Mapping[int, int], now_ms: float, *, times: int = 1) -> None:
        """The step has run. tokens: what each part that wanted logits made. Requests that have left are passed over.

        The caller removes those that have ended, at max_tokens or before, ahead of the next step. times: so many alike
        steps have run, one after the other, each with these tokens.
        """
        for part in step.parts:
            entry = self._running.get(part.id)
            if entry is None:
                continue
            segment = part.segment
            stop = entry.cached + len(segment.tokens) + times - 1
            if segment.wants_logits:
                entry.tokens += [tokens[part.id]] * times
                entry.produced += times
                if entry.first_ms is None:
                    entry.first_ms = now_ms
            if (stop - 1) // BLOCK_TOKENS != (entry.cached - 1) // BLOCK_TOKENS:  # not all were planned on their own
                self._blocks.grow(part.id, stop)
            self._blocks.wrote(part.id, entry.tokens, stop, segment.submodel)
            if not entry.decodes:
                self._plan = None
            entry.option = part.option
            entry.move(stop)

    def made(self, step: Step, tokens: Mapping[int, int], now_ms: float) -> None:
        """What a step made that was taken before it had run: it has now. Requests that have left are passed over."""
        for part in step.wanting:
            entry = self._running.get(part.id) or self._waiting.get(part.id)
            if entry is None or part.id not in tokens:
                continue
            place = part.segment.stop
            entry.tokens[place] = tokens[part.id]
            if place == len(entry.request.prompt):
                entry.first_ms = now_ms
                entry.move(entry.cached)
            if entry.cached > place and entry.option is not None:  # the next step writes it: its block may be complete
                self._blocks.wrote(part.id, entry.tokens, entry.cached, entry.option.submodel)

    def let_go(self) -> None:
        """Requests that will have all their tokens when the steps that are taken have run hold nothing any more."""
        for entry in [*self._running.values()]:
            if entry.produced == entry.request.max_tokens:
                self.remove(entry.id)

    def forget(self) -> None:
        """Steps that were taken have not run: what the cache holds for others is in doubt."""
        self._blocks.forget()

    def _make_room(self, held: Collection[int]) -> tuple[int, ...]:
        """See that every response that goes on has a place for its token. Returns those that had to make room."""
        preempted: list[int] = []
        full = [
            entry
            for entry in self._running.values()
            if entry.cached % BLOCK_TOKENS == 0 and entry.decodes and entry.id not in held
        ]
        for entry in sorted(full, key=_arrival):
            id, places = entry.id, entry.cached + 1
            while id in self._running and not self._blocks.grow(id, places):
                preempted.append(self._preempt())
        return tuple(preempted)

    def _preempt(self) -> int:
        """The request that arrived last goes back to the head of the queue."""
        last = max(self._running.values(), key=_arrival)
        id = last.id
        self.remove(id)
        last.move(0)
        self._waiting[id] = last
        self._waiting.move_to_end(id, last=False)
        return id

    def _parts(self, plan: Plan, held: Collection[int], *, admits: bool) -> tuple[list[Part], int, int]:
        """The step's parts, how many of them continue a response, which come first, and the tokens that newcomers
        reuse. admits: whether there may be newcomers."""
        going = [entry for entry in self._running.values() if entry.id not in held]
        table = self._blocks.table
        parts = [entry.part(plan.options[entry.id], table(entry.id), 1) for entry in going if entry.decodes]
        decoded, reused = len(parts), 0
        room = self.capacity.chunk_tokens - decoded
        begun = [entry.id for entry in going if not entry.decodes]
        for id in [*(other for other in begun if other not in plan.order), *plan.order]:
            if not room:
                break
            entry = self._running.get(id)
            if entry is None:
                cached = self._admit(id, plan.options[id].submodel) if admits else None
                if cached is None:
                    admits = False  # those later in the order do not overtake
                    continue
                entry = self._running[id]
                reused += cached
            elif id not in begun:
                continue
            tokens = min(room, len(entry.tokens) - entry.cached)
            parts.append(entry.part(plan.options[id], table(id), tokens))
            room -= tokens
        return parts, decoded, reused

    def _admit(self, id: int, submodel: Submodel) -> int | None:
        """Let a waiting request run. Returns how many of its tokens the cache has; None if there is no room for it."""
        if len(self._running) >= self.capacity.slots:
            return None
        entry = self._waiting[id]
        # Those that run will soon want a block each: without these to spare, one would be preempted at once.
        cached = self._blocks.open(id, entry.tokens, submodel, spare=len(self._running))
        if cached is None:
            return None
        entry.move(cached)
        self._running[id] = self._waiting.pop(id)
        self._plan = None
        return cached


def _most_blocks(request: Request) -> int:
    return blocks_needed(len(request.prompt) + request.max_tokens - 1)  # the last token is never run


def _arrival(entry: ScheduledRequest) -> tuple[float, int]:
    return entry.arrived_ms, entry.id
