"""SlackFit (SuperServe, NSDI 2025) for responses that come token by token: the slack picks a bucket of step times.

Offline, the step times of all numbers of rows and all widths are cut into evenly long buckets. Online, the request
with the earliest deadline counts: its slack for each step that it still needs, and the bucket closest below it. The
widest submodel whose step, with the rows there are, is no longer than that bucket runs for all requests with a budget.
"""

from __future__ import annotations

from math import ceil, floor, inf
from typing import Annotated, ClassVar

from pydantic import Field

from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import own_option
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation


@record(what="slackfit")
class SlackFitPolicy:
    name: ClassVar[str] = "slackfit"
    buckets: Annotated[int, Field(ge=1, le=10**6)] = 16
    """Of step time, between the shortest and the longest step."""

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        option = self._option(situation, menu, costs)
        order = sorted(situation.waiting, key=lambda job: (job.due_ms, job.arrived_ms, job.id))
        return Plan(
            options={job.id: option if job.elastic else own_option(job, menu) for job in situation.jobs},
            order=tuple(job.id for job in order),
        )

    def _option(self, situation: Situation, menu: Menu, costs: StepCosts) -> Option:
        jobs = [job for job in situation.jobs if job.bounded]
        if not jobs:
            return menu.elastic[0]
        head = min(jobs, key=lambda job: (job.due_ms, job.arrived_ms, job.id))
        slack_ms = (head.due_ms - situation.now_ms) / _steps(head, situation.capacity.chunk_tokens)
        limit_ms = self._bucket_ms(slack_ms, situation.capacity.slots, menu, costs)
        rows = max(1, min(situation.capacity.slots, len(situation.running) + len(situation.waiting)))
        for option in menu.elastic:
            if _decode_ms(costs, option, rows) <= limit_ms:
                return option
        return menu.narrowest

    def _bucket_ms(self, slack_ms: float, slots: int, menu: Menu, costs: StepCosts) -> float:
        """The upper end of the bucket closest below the slack; the first one's where there is none."""
        low = _decode_ms(costs, menu.narrowest, 1)
        high = _decode_ms(costs, menu.elastic[0], slots)
        width = (high - low) / self.buckets
        if slack_ms == inf or width <= 0:
            return high
        return low + width * min(self.buckets, max(1, floor((slack_ms - low) / width)))


def _steps(job: Job, chunk_tokens: int) -> int:
    """Until that bound is met."""
    prompt = 0 if job.decodes else ceil(job.pending / chunk_tokens)
    ttft_ms, e2e_ms = job.request.budget.ttft_ms, job.request.budget.e2e_ms
    if job.first_ms is None and ttft_ms is not None and (e2e_ms is None or ttft_ms <= e2e_ms):
        return prompt
    return max(1, job.remaining if job.decodes else prompt + job.remaining - 1)


def _decode_ms(costs: StepCosts, option: Option, rows: int) -> float:
    return costs.step_ms([option.group(rows, 0, rows)])
