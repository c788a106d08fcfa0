"""A simulation that can be run: the kinds of node, the requests that come to them, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from lts_ray.checkpoints.universal import read_universal
from lts_ray.errors import LtsRayError
from lts_ray.record import record_json
from serve.autoscaling.autoscaler import Autoscaler
from serve.autoscaling.named_autoscalers import autoscaler_named
from serve.policies.named_policies import policy_named
from serve.routing.named_routers import router_named
from serve.routing.router import Router
from serve.simulate.attainment_score import AttainmentScore, mean_loss, score
from serve.simulate.capacity_plan import CapacityPlan, Result, busiest_part, plan_capacity
from serve.simulate.fleet_kinds import batch_ms, read_faults, read_kinds
from serve.simulate.fleet_run import FleetRun
from serve.simulate.fleet_series import fleet_series
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.offered_load import OfferedLoad, offered_load
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.simulate.simulation_settings import SimulationSettings
from serve.traffic.arrival import Arrival

SCHEMA, NOISE = 1, 15
"""Of what `to_json` gives, and the stream of random numbers of simulated steps; see serve.traffic.load for others."""
SAMPLES = 240
"""Of the replicas, while requests come."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    settings: SimulationSettings
    kinds: tuple[SimulatedKind, ...]
    load: OfferedLoad
    faults: tuple[InjectedFault, ...] = ()

    @classmethod
    def read(cls, settings: SimulationSettings) -> Scenario:
        """Raises LtsRayError for names that are unknown, and for files that are wrong or do not fit."""
        kinds = read_kinds(settings)
        _check_names(settings, kinds)
        faults = read_faults(Path(settings.fleet), kinds)
        config, _ = read_universal(Path(settings.model))
        load = offered_load(settings, kinds, context_length=config.context_length)
        return cls(settings=settings, kinds=kinds, load=load, faults=faults)

    def beside(self, settings: SimulationSettings) -> Scenario:
        """Under the same load. settings: other names of what decides, else the same. Raises LtsRayError."""
        _check_names(settings, self.kinds)
        return replace(self, settings=settings)

    def run(self, progress: Callable[[float], None] | None = None) -> FleetRun:
        """The same every time."""
        return self._run(self.load.arrivals, self.kinds, sample_s=self.load.seconds / SAMPLES, progress=progress)

    def plan(self, progress: Callable[[int, int], None] | None = None) -> CapacityPlan:
        """Of fleets of a fixed size, within the kinds' bounds, under this load. Raises LtsRayError without budgets."""
        arrivals = self.load.arrivals
        bounded = sum(bool(arrival.budget) for arrival in arrivals)
        if not bounded:
            raise LtsRayError("there is nothing to plan for: no request of this load has a budget")

        def tried(arrivals: Sequence[Arrival], replicas: Mapping[str, int]) -> Result:
            kinds = [
                replace(kind, replicas=count, min_replicas=count, max_replicas=count)
                for kind, count in zip(self.kinds, replicas.values(), strict=True)
            ]
            outcomes = self._run(arrivals, kinds).outcomes
            missed = sum(bool(outcome.budget) and not outcome.met for outcome in outcomes)
            return 1 - missed / bounded, mean_loss(outcomes, losses=self.losses, narrowest=self.narrowest)

        return plan_capacity(
            self.kinds,
            partial(tried, arrivals),
            busiest=partial(tried, busiest_part(arrivals)),
            wanted=self.settings.attainment,
            best_loss=min(self.losses.values()),
            seed=self.settings.seed,
            progress=progress,
        )

    def _run(self, arrivals: Sequence[Arrival], kinds: Sequence[SimulatedKind], **how: Any) -> FleetRun:
        return simulate_fleet(
            arrivals,
            kinds=kinds,
            router=_router(self.settings.router, self.kinds),
            policy=partial(policy_named, self.settings.policy),
            rng=np.random.default_rng([self.settings.seed, NOISE]),
            faults=self.faults,
            autoscaler=_autoscaler(self.settings),
            **how,
        )

    @property
    def losses(self) -> dict[str, float]:
        """By submodel; 0 where none was measured."""
        return {name: option.likely_loss or 0.0 for name, option in self.kinds[0].node.menu.named.items()}

    @property
    def knows_losses(self) -> bool:
        return all(option.loss is not None for option in self.kinds[0].node.menu.named.values())

    @property
    def narrowest(self) -> str:
        """The submodel that tokens count as which never came."""
        return max((kind.node.menu.narrowest for kind in self.kinds), key=lambda option: option.shortfall).name

    def score(self, run: FleetRun) -> AttainmentScore:
        universal, seconds = self.kinds[0].node.menu.universal.name, self.load.seconds
        return score(run.outcomes, universal=universal, seconds=seconds, losses=self.losses, narrowest=self.narrowest)

    def to_json(self, run: FleetRun) -> dict[str, Any]:
        """What a report keeps of a run: nothing that another one of the same settings would not have."""
        hours, result = run.replica_hours or {}, asdict(self.score(run))
        series = asdict(fleet_series(run, losses=self.losses, narrowest=self.narrowest))
        if not self.knows_losses:
            result["loss"], series["loss"] = None, [None] * len(series["loss"])
        kinds = {
            kind.name: {"replica_hours": hours[kind.name], "cost": hours[kind.name] * kind.cost_per_hour}
            for kind in self.kinds
        }
        return {
            "schema": SCHEMA,
            "settings": record_json(self.settings),
            "load": {"rate": self.load.rate, "seconds": self.load.seconds},
            "result": result | {"migrations": run.migrations, "cost": run.cost, "kinds": kinds},
            "series": series,
            "decisions": list(map(asdict, run.decisions)),
            "faults": list(map(asdict, self.faults)),
        }


def _check_names(settings: SimulationSettings, kinds: Sequence[SimulatedKind]) -> None:
    policy_named(settings.policy)
    _autoscaler(settings)
    _router(settings.router, kinds)


def _autoscaler(settings: SimulationSettings) -> Autoscaler | None:
    if settings.autoscaling == "fixed":
        return None
    wanted = {"attainment": settings.attainment} if settings.autoscaling == "attainment" else {}
    return autoscaler_named(settings.autoscaling, **wanted)


def _router(name: str, kinds: Sequence[SimulatedKind]) -> Router:
    """The grid of the static one: a kind gets what the next slower one could not keep with the universal model."""
    if name != "static-grid":
        return router_named(name)
    ordered = sorted(kinds, key=batch_ms)
    most_ms = [*map(batch_ms, ordered[1:]), inf]
    return router_named(name, kinds=[(ms, kind.name) for ms, kind in zip(most_ms, ordered, strict=True)])
