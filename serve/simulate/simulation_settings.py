"""What a simulation is asked for. With the files that it names it says all that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import Field

from lts_ray.errors import LtsRayError
from lts_ray.record import Positive, Seed, Text, record
from serve.traffic.budget_classes import BudgetClasses


@record(what="settings")
class SimulationSettings:
    fleet: Text
    """File of the kinds of node, and of faults."""
    model: Text
    """Checkpoint folder: its shape and its losses, the weights are not read."""
    frontier: Text | None = None
    """File with the submodels of each kind's target; None: the granularities for all."""
    costs: Mapping[str, Text] = field(default_factory=dict)
    """Files of step costs by kind, in place of those that the fleet file names."""
    trace: Text = "gamma-4"
    """Name of an arrival process, or file of recorded requests."""
    rate: Positive | None = None
    """Requests per second."""
    load: Positive | None = None
    """In place of the rate: in multiples of what the fleet bears with the universal model, as it is at first."""
    seconds: Positive | None = None
    """How long requests come; None: as long as recorded, or 60."""
    budgets: BudgetClasses = field(default_factory=BudgetClasses)
    """Classes, in multiples of what the universal model needs on the fastest idle kind."""
    router: Text = "budget"
    """Which replica a request goes to."""
    autoscaling: Text = "fixed"
    """How many replicas there are."""
    policy: Text = "deadline"
    """Which width a request has."""
    attainment: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """The share of the budgets that replicas want to keep."""
    quality_floor: Text | None = None
    """What autoscaling lets the mean loss of tokens come to: a submodel's name, or nats a token; None: anything."""
    seed: Seed = 0
    """Of the load and of the noise."""

    def __post_init__(self) -> None:
        if self.rate is not None and self.load is not None:
            raise LtsRayError("a rate and a load say two things: give one of them")
