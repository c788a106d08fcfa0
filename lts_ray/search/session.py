"""One search's state and its log on disk: what was evaluated, what comes next, and what it found. No Ray.

The log is the only state. It begins with what the search is (settings, model, targets); every finished evaluation is
appended and made durable before the search goes on. To resume, evolution is run again from the same seed against the
log: what it asks for and the log has is told at once, and what it asks for beyond that is what is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line
from lts_ray.frontier import Frontier, Point, TargetEntry, point_names
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.measurement.evaluation import Evaluation, outcome_from_json, outcome_to_json
from lts_ray.measurement.measure import Failed
from lts_ray.search.evolution import Evolution
from lts_ray.search.log import LOG, open_log
from lts_ray.search.pareto import Objectives, bounds_of, relative_hypervolume
from lts_ray.search.plan import SearchPlan
from lts_ray.search.settings import LatencyRegime

Outcome = Evaluation | Failed


class SearchSession:
    """Ask for candidates, record outcomes; the log keeps up."""

    def __init__(self, plan: SearchPlan, folder: Path, *, resume: bool) -> None:
        """Raises LtsRayError for a folder in use without `resume`, or a log of another search."""
        self.plan, self.folder = plan, folder
        self.step_costs: dict[str, StepCostModel] = {}
        self.outcomes: dict[Submodel, Outcome] = {}  # in the order they finished
        self._evolution = Evolution(
            plan.space,
            targets=[target.name for target in plan.targets],
            evaluations=plan.settings.evaluations,
            settings=plan.settings.evolution_settings,
            rng=np.random.default_rng(plan.settings.seed),
        )
        self._again: list[Submodel] = []  # asked for before the log ended, so still to do
        self._replay(open_log(folder, plan.to_json(), resume=resume))

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def is_finished(self) -> bool:
        return self._evolution.is_finished

    @property
    def is_exhausted(self) -> bool:
        return self._evolution.is_exhausted

    @property
    def missing_step_costs(self) -> list[str]:
        """Targets that were not calibrated yet."""
        return [target.name for target in self.plan.targets if target.name not in self.step_costs]

    def ask(self) -> Submodel | None:
        """The next candidate; None when there is none now (see Evolution.ask)."""
        return self._again.pop(0) if self._again else self._evolution.ask()

    def claim(self, submodel: Submodel) -> None:
        """Take a candidate that `ask` would give again after a resume: someone is on it already."""
        self._again = [each for each in self._again if each != submodel]

    def record(self, submodel: Submodel, outcome: Outcome) -> None:
        """Log an outcome, then go on with it. A second one for the same candidate is ignored."""
        if submodel in self.outcomes:
            return
        candidate = self.plan.space.to_json(submodel)
        append_json_line(self.log, {"kind": "evaluation", "candidate": candidate, **outcome_to_json(outcome)})
        self._take(submodel, outcome)

    def record_step_cost(self, target: str, step_cost: StepCostModel) -> None:
        append_json_line(self.log, {"kind": "step_cost", "target": target, "step_cost": step_cost.to_json()})
        self.step_costs[target] = step_cost

    def vectors(self, target: str) -> dict[Submodel, Objectives]:
        """Objectives of every evaluated candidate on `target`, in the order they finished."""
        latency = self.plan.settings.latency
        return {
            submodel: objectives(outcome, target, latency)
            for submodel, outcome in self.outcomes.items()
            if isinstance(outcome, Evaluation)
        }

    def front(self, target: str) -> Mapping[Submodel, Objectives]:
        return self._evolution.front(target)

    def hypervolume(self, target: str, vectors: Mapping[Submodel, Objectives] | None = None) -> float:
        """What `vectors` (default: all) dominate of the box that the space's seeds span on `target`.

        The seeds are evaluated first, so the box stays the same and the number only grows. It can pass 1: a candidate
        may beat the fastest seed's timing.
        """
        every = self.vectors(target)
        seeds = [every[seed] for seed in self.plan.space.seeds() if seed in every]
        chosen = every if vectors is None else vectors
        return relative_hypervolume(list(chosen.values()), bounds_of(seeds)) if seeds else 0.0

    def frontier(self) -> Frontier:
        """Raises LtsRayError when nothing could be evaluated."""
        config, targets = self.plan.config, self.plan.targets
        evaluated = {s: outcome for s, outcome in self.outcomes.items() if isinstance(outcome, Evaluation)}
        if not evaluated:
            reasons = sorted({outcome.reason for outcome in self.outcomes.values() if isinstance(outcome, Failed)})
            raise LtsRayError(f"every evaluation failed: {'; '.join(reasons[:3])}; see {self.log}")
        fronts = {target.name: self.front(target.name) for target in targets}
        kept = [s for s in evaluated if any(s in front for front in fronts.values()) or s in config.trained.values()]
        names = point_names(kept, config)
        points = [
            Point(
                name=names[submodel],
                submodel=submodel,
                decoder_params=self.plan.space.decoder_params(submodel),
                loss=evaluated[submodel].loss,
                costs={name: each.cost for name, each in evaluated[submodel].measurements.items()},
                fronts=tuple(name for name, front in fronts.items() if submodel in front),
            )
            for submodel in kept
        ]
        return Frontier(
            model_fingerprint=self.plan.model_fingerprint,
            quality=self.plan.settings.quality,
            targets={each.name: TargetEntry(target=each, step_cost=self.step_costs[each.name]) for each in targets},
            points=tuple(sorted(points, key=lambda point: (point.loss, point.submodel))),
        )

    def _take(self, submodel: Submodel, outcome: Outcome) -> None:
        self.outcomes[submodel] = outcome
        if isinstance(outcome, Failed):
            self._evolution.tell(submodel, outcome)
        else:
            latency = self.plan.settings.latency
            names = [target.name for target in self.plan.targets]
            self._evolution.tell(submodel, {name: objectives(outcome, name, latency) for name in names})

    def _replay(self, records: list[dict[str, Any]]) -> None:
        known: dict[Submodel, Outcome] = {}
        for record in records:
            try:
                if record["kind"] == "step_cost":
                    self.step_costs[record["target"]] = StepCostModel.from_json(record["step_cost"])
                else:
                    known.setdefault(self.plan.space.from_json(record["candidate"]), outcome_from_json(record))
            except KeyError as error:
                raise LtsRayError(f"{self.log} has a record without {error}: the log was changed by hand") from None
        while (submodel := self._evolution.ask()) is not None:
            if submodel in known:
                self._take(submodel, known[submodel])
            else:
                self._again.append(submodel)
        if known.keys() - self.outcomes.keys():
            raise LtsRayError(f"{self.log} has candidates that this search does not ask for: start in another folder")
        self.outcomes = {submodel: self.outcomes[submodel] for submodel in known}


def objectives(evaluation: Evaluation, target: str, latency: LatencyRegime) -> Objectives:
    """Loss, latency or latencies, memory: all minimised."""
    cost = evaluation.measurements[target].cost
    latencies = {"prefill": (cost.prefill_ms,), "decode": (cost.decode_ms,), "both": (cost.prefill_ms, cost.decode_ms)}
    return (evaluation.loss, *latencies[latency], cost.peak_memory_mb)
