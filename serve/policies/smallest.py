"""The narrowest submodel for all requests with a budget: the most budgets that widths alone can keep."""

from __future__ import annotations

from typing import ClassVar

from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import in_turn
from serve.policies.menu import Menu
from serve.policies.policy import Plan, Situation


@record(what="smallest")
class SmallestPolicy:
    name: ClassVar[str] = "smallest"

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        return in_turn(situation, menu, menu.narrowest)
