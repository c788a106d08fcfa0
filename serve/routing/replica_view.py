"""What a router knows of one replica: what it said of itself, and what was sent to it since. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np

from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.step_costs import Group, StepCosts
from serve.policies.forecast import Array
from serve.policies.menu import Menu
from serve.policies.policy import Job, Situation
from serve.policies.request import Request


@dataclass(frozen=True, kw_only=True)
class ReplicaView:
    id: str
    kind: str
    """Of node, as the fleet's file names it."""
    cost: float
    """Of an hour, in whatever unit the fleet's file has."""
    menu: Menu
    costs: StepCosts
    """As its engine has corrected them."""
    situation: Situation
    """Its jobs, and by how far time strays there. Their tokens so far are those that have come back."""
    n_blocks: int | None = None
    """Of its KV cache; None: enough for every request."""

    def fits(self, request: Request) -> bool:
        """Whether it could run the request if it had nothing else to do."""
        places = len(request.prompt) + request.max_tokens - 1  # the last token is never run
        return self.n_blocks is None or places <= self.n_blocks * BLOCK_TOKENS

    @property
    def has_place(self) -> bool:
        """Whether its queue takes one request more. Where no replica has a place, a request is refused."""
        return len(self.situation.waiting) < self.situation.capacity.max_queue

    @property
    def load(self) -> int:
        """Requests that run and wait."""
        return len(self.situation.running) + len(self.situation.waiting)

    @cached_property
    def outlook(self) -> Outlook:
        return Outlook.of(self)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What one request more would take here, roughly, for each option from wide to narrow.

    To be had in a few microseconds for many requests, because it is made when the jobs change and not when a request
    comes: the rows that run go on beside the new one, and it waits as long as the first of them to end.
    """

    wait_ms: float
    """Until it has a place, and the prompts before it are read."""
    token_ms: Array
    """[options]: a step with its row; the other elastic rows are as wide as it."""
    prompt_ms: Array
    """[options]: for each token of its prompt."""
    most_ms: float
    """A longer step than this would take an admitted budget away."""

    @classmethod
    def of(cls, view: ReplicaView) -> Outlook:
        situation, costs, menu = view.situation, view.costs, view.menu
        slots, chunk = situation.capacity.slots, situation.capacity.chunk_tokens
        fixed = [job for job in situation.jobs if not job.elastic][: slots - 1]
        elastic = [job for job in situation.jobs if job.elastic][: slots - 1 - len(fixed)]
        beside = [Group((job.request.pinned or menu.universal).neurons, 1, 0, 1) for job in fixed]
        rows = 1 + len(elastic)
        token_ms = np.array([costs.step_ms([*beside, Group(o.neurons, rows, 0, rows)]) for o in menu.elastic])
        prompt_ms = np.array([costs.step_ms([Group(o.neurons, chunk, 0, 1)]) / chunk for o in menu.elastic])
        narrow_ms = float(token_ms[-1])
        wait_ms = sum(job.pending for job in situation.jobs if not job.decodes) * float(prompt_ms[-1])
        if view.load >= slots:
            wait_ms += _until_free(situation.jobs, slots, narrow_ms)
        return cls(
            wait_ms=wait_ms,
            token_ms=token_ms,
            prompt_ms=prompt_ms,
            most_ms=min([_longest_step_ms(job, situation.now_ms) for job in situation.running], default=inf),
        )


def _until_free(jobs: tuple[Job, ...], slots: int, step_ms: float) -> float:
    """Milliseconds until one more than `jobs` has a place, if places are taken in order and steps take `step_ms`."""
    ends = sorted(job.remaining for job in jobs[:slots])
    for job in jobs[slots:]:
        ends.append(ends.pop(0) + job.remaining)
        ends.sort()
    return ends[0] * step_ms if ends else 0.0


def _longest_step_ms(job: Job, now_ms: float) -> float:
    """With which its tokens still come in time; infinity where they need not, or will not anyway."""
    left_ms = job.due_ms - now_ms
    return left_ms / max(1, job.remaining) if job.elastic and left_ms > 0 else inf
