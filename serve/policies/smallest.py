"""The narrowest submodel for all requests with a budget: the most budgets that widths alone can keep."""

from __future__ import annotations

from dataclasses import dataclass

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import in_turn
from serve.policies.menu import Menu
from serve.policies.policy import Plan, Situation


@dataclass(frozen=True)
class SmallestPolicy:
    name: str = "smallest"

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        return in_turn(situation, menu, menu.narrowest)
