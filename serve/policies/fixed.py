"""One submodel for all requests with a budget, whatever they ask for: what a server with one model does."""

from __future__ import annotations

from math import inf
from typing import ClassVar

from lts_ray.errors import LtsRayError
from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation


@record(what="fixed")
class FixedPolicy:
    name: ClassVar[str] = "fixed"
    submodel: str | None = None
    """Its name on the menu; None: the universal model."""

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        option = menu.universal if self.submodel is None else _named(menu, self.submodel)
        return in_turn(situation, menu, option)


def _named(menu: Menu, submodel: str) -> Option:
    if submodel not in menu.named:
        raise LtsRayError(f"the policy's submodel {submodel!r} is not served; there are: {', '.join(menu.named)}")
    return menu.named[submodel]


def own_option(job: Job, menu: Menu) -> Option:
    """Of a job that is not elastic."""
    return menu.universal if job.request.pinned is None else job.request.pinned


def in_turn(situation: Situation, menu: Menu, option: Option) -> Plan:
    """All in the order of arrival, elastic jobs at `option`."""
    return Plan(
        options={job.id: option if job.elastic else own_option(job, menu) for job in situation.jobs},
        order=tuple(job.id for job in situation.waiting),
        until_ms=inf,
    )
