"""The largest submodel with which a request would keep its budget on an idle engine, for good, whatever the load."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import own_option
from serve.policies.forecast import forecast
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation


@record(what="idle-feasible")
class IdleFeasiblePolicy:
    name: ClassVar[str] = "idle-feasible"
    margin: Annotated[float, Field(gt=0)] = 1.1
    """A prediction is in time if it is so with this factor."""

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        return Plan(
            options={
                job.id: self._option(job, situation, menu, costs) if job.elastic else own_option(job, menu)
                for job in situation.jobs
            },
            order=tuple(job.id for job in situation.waiting),
        )

    def _option(self, job: Job, situation: Situation, menu: Menu, costs: StepCosts) -> Option:
        """What it ran at last, if it has run; until then, what it would get alone."""
        if job.option is not None:
            return job.option
        alone = replace(situation, now_ms=job.arrived_ms, running=(), waiting=(replace(job, cached=0),))
        predicted = forecast(
            alone,
            order=(job.id,),
            widths={},
            caps=[option.shape for option in menu.elastic],
            costs=costs,
        )
        for cap, option in enumerate(menu.elastic):
            if job.request.budget.holds(predicted.timing(job.id, cap), margin=self.margin):
                return option
        return menu.narrowest
