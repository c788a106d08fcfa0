"""One search's state and its log on disk: what was evaluated, and what comes next. No Ray.

The log is the only state. It begins with what the search is (settings, space, targets); every finished evaluation is
appended and made durable before the search goes on. To resume, the algorithm is run again from the same seed against
the log: what it asks for and the log has is told at once, and what it asks for beyond that is what is left to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.outcome import Evaluation, outcome_from_json, outcome_to_json
from lts_ray.measurement.pooled import pooled
from lts_ray.pareto import Objectives, bounds_of, relative_hypervolume
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.registry import make_algorithm
from lts_ray.search.algorithms.search_settings import LATENCIES, LatencyRegime
from lts_ray.search.algorithms.surrogate import Sureness, Surrogate
from lts_ray.search.search_log import LOG, cut_unfinished, open_log
from lts_ray.search.search_plan import SearchPlan
from lts_ray.spaces.limited_space import LimitedSpace
from lts_ray.spaces.search_space import Candidate

Outcome = Evaluation | Failed
CUT_OFF = "the log was damaged: without that line and those behind it, the search goes on from there"


class SearchSession(Generic[Candidate]):
    """Ask for candidates, record outcomes; the log keeps up."""

    def __init__(self, plan: SearchPlan[Candidate], folder: Path, *, resume: bool) -> None:
        """Raises LtsRayError for a folder in use without `resume`, or a log of another search."""
        self.plan, self.folder = plan, folder
        self.outcomes: dict[Candidate, Outcome] = {}  # in the order they finished
        self._search = _ask_tell(plan)
        self._again: list[Candidate] = []  # asked for before the log ended, so still to do
        self._evaluated: tuple[int, Mapping[Candidate, Evaluation]] = (0, {})  # of so many outcomes
        self._writes = False
        self._replay(open_log(folder, plan.to_json(), resume=resume))

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def is_finished(self) -> bool:
        return not self._again and self._search.is_finished

    @property
    def is_exhausted(self) -> bool:
        return self._search.is_exhausted

    def ask(self) -> Candidate | None:
        """The next candidate; None when there is none now (see AskTell.ask)."""
        return self._again.pop(0) if self._again else self._search.ask()

    def record(self, candidate: Candidate, outcome: Outcome) -> None:
        """Log an outcome, then go on with it. A second one for the same candidate is ignored."""
        if candidate in self.outcomes:
            return
        described = self.plan.space.to_json(candidate)
        if not self._writes:  # not in a session that only looks on: the last line may be another's, who is writing it
            cut_unfinished(self.log)
            self._writes = True
        written = outcome_to_json(outcome, self.plan.settings.quality)
        append_json_line(self.log, {"kind": "evaluation", "candidate": described, **written})
        self._take(candidate, outcome)

    @property
    def evaluated(self) -> Mapping[Candidate, Evaluation]:
        """What could be evaluated, in the order it finished; with pooled latencies where the plan pools.

        The algorithm goes by each one's own: what it does must not depend on the order in which evaluations finish.
        """
        count, evaluated = self._evaluated
        if count != len(self.outcomes):
            evaluated = {each: outcome for each, outcome in self.outcomes.items() if isinstance(outcome, Evaluation)}
            if self.plan.pooled_by is not None:
                evaluated = self._pooled(evaluated, {each: self.plan.pooled_by(each) for each in evaluated})
            self._evaluated = len(self.outcomes), evaluated
        return evaluated

    def _pooled(
        self, evaluated: Mapping[Candidate, Evaluation], kinds: Mapping[Candidate, Hashable]
    ) -> dict[Candidate, Evaluation]:
        numbers = {candidate: list(self.plan.space.to_genes(candidate).values()) for candidate in evaluated}
        names = [target.name for target in self.plan.targets]
        by_target = {
            name: pooled({candidate: each.measurements[name] for candidate, each in evaluated.items()}, numbers, kinds)
            for name in names
        }
        return {
            candidate: replace(each, measurements={name: by_target[name][candidate] for name in names})
            for candidate, each in evaluated.items()
        }

    @property
    def _results(self) -> dict[Candidate, Mapping[str, Objectives]]:
        return {candidate: self._objectives(evaluation) for candidate, evaluation in self.evaluated.items()}

    def vectors(self, target: str) -> dict[Candidate, Objectives]:
        """Objectives of every evaluated candidate on `target`, in the order they finished."""
        return {candidate: result[target] for candidate, result in self._results.items()}

    def admitted(self, target: str) -> Mapping[Candidate, Objectives]:
        """Of `vectors`, those that keep the limits."""
        return self._search.admitted(target, self._results)

    def front(self, target: str) -> Mapping[Candidate, Objectives]:
        return self._search.front(target, self._results)

    def joint_front(self) -> Mapping[Candidate, Objectives]:
        """Where the costs on all targets count at once (see AskTell.joint_front)."""
        return self._search.joint_front(self._results)

    def hypervolume(self, target: str, vectors: Mapping[Candidate, Objectives] | None = None) -> float:
        """What `vectors` (default: all admitted) dominate of the box that the space's seeds span on `target`.

        The seeds are evaluated first, so the box stays the same and the number only grows. It can pass 1: a candidate
        may beat the fastest seed's timing. Without seeds the box is that of all that was evaluated.
        """
        chosen = self.admitted(target) if vectors is None else vectors
        box = self.seeds(target) or list(self.vectors(target).values())
        return relative_hypervolume(list(chosen.values()), bounds_of(box)) if box else 0.0

    def seeds(self, target: str) -> list[Objectives]:
        """Of `vectors`, those of the space's seeds; none where there are fewer than two, which span no box."""
        vectors = self.vectors(target)
        seeds = [vectors[seed] for seed in self.plan.space.seeds() if seed in vectors]
        return seeds if len(seeds) > 1 else []

    def unsteady(self, target: str) -> int:
        """How many of those on the front of `target` have a latency there to distrust."""
        evaluated = self.evaluated
        return sum(evaluated[candidate].measurements[target].is_unsteady for candidate in self.front(target))

    @property
    def sureness(self) -> tuple[Sureness, ...]:
        """How good a surrogate's predictions were, by objective; empty for algorithms that predict nothing."""
        algorithm = self._search.algorithm
        return algorithm.sureness if isinstance(algorithm, Surrogate) else ()

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What a finished search could not do, a line each: a space that ran out, limits that nothing keeps, times of
        two kinds."""
        settings, lines = self.plan.settings, []
        if self.is_exhausted and len(self.outcomes) < settings.evaluations:
            lines.append(
                f"the space has no more candidates to ask for: {len(self.outcomes)} of {settings.evaluations} "
                "evaluations"
            )
        for target in self.plan.targets:
            if self.evaluated and not self.front(target.name):
                lines.append(
                    f"{target.name}: none of the {len(self.evaluated)} evaluated keeps {settings.limits.words}"
                )
            ran_in = Counter(evaluation.measurements[target.name].ran_in for evaluation in self.evaluated.values())
            if len(ran_in) > 1:
                lines.append(
                    f"{target.name}: {ran_in['kernels']} were timed in our kernels and {ran_in['torch']} in torch, "
                    "which do not compare: compile the kernels on all its nodes, and search in another folder"
                )
        return tuple(lines)

    def check_something_evaluated(self) -> None:
        """Raise LtsRayError, with the reasons, when nothing could be evaluated."""
        if not self.outcomes:
            raise LtsRayError(f"{self.log} has no evaluation yet: look again when the search has ended the first")
        if not self.evaluated:
            reasons = sorted({outcome.reason for outcome in self.outcomes.values() if isinstance(outcome, Failed)})
            raise LtsRayError(f"every evaluation failed: {'; '.join(reasons[:3])}; see {self.log}")

    def _take(self, candidate: Candidate, outcome: Outcome) -> None:
        self.outcomes[candidate] = outcome
        if isinstance(outcome, Failed):
            self._search.tell(candidate, outcome)
        else:
            self._search.tell(candidate, self._objectives(outcome))

    def _objectives(self, evaluation: Evaluation) -> Mapping[str, Objectives]:
        latency = self.plan.settings.latency
        return {target.name: objectives(evaluation, target.name, latency) for target in self.plan.targets}

    def _outcome(self, record: Mapping[str, Any]) -> Outcome:
        outcome = outcome_from_json(record)
        targets = {target.name for target in self.plan.targets}
        if isinstance(outcome, Evaluation) and outcome.measurements.keys() != targets:
            raise LtsRayError(
                f"measured on {', '.join(outcome.measurements) or 'no target'}, not on the search's targets"
            )
        return outcome

    def _replay(self, records: list[dict[str, Any]]) -> None:
        known: dict[Candidate, Outcome] = {}
        for number, record in enumerate(records, start=2):
            try:
                kind = record["kind"]
                if kind == "evaluation":
                    known.setdefault(self.plan.space.from_json(record["candidate"]), self._outcome(record))
                elif kind != "step_cost":  # older logs have these; nothing reads them any more
                    raise LtsRayError(f"this version knows no record of kind {kind!r}")
            except KeyError as error:
                raise LtsRayError(f"{self.log}, line {number}: a record without {error}; {CUT_OFF}") from None
            except LtsRayError as error:
                raise LtsRayError(f"{self.log}, line {number}: {error}; {CUT_OFF}") from None
        left = set(known)
        while left and (candidate := self._search.ask()) is not None:
            if candidate in known:
                self._take(candidate, known[candidate])
                left.discard(candidate)
            else:
                self._again.append(candidate)
        if left:
            raise LtsRayError(f"{self.log} has candidates that this search does not ask for: start in another folder")
        self.outcomes = {candidate: self.outcomes[candidate] for candidate in known}


def objectives(evaluation: Evaluation, target: str, latency: LatencyRegime) -> Objectives:
    """Loss, latency or latencies, memory: all minimised."""
    cost = evaluation.measurements[target].cost
    return (evaluation.loss, *(getattr(cost, name) for name in LATENCIES[latency]), cost.peak_memory_mb)


def _ask_tell(plan: SearchPlan[Candidate]) -> AskTell[Candidate]:
    settings, targets = plan.settings, [target.name for target in plan.targets]
    space = LimitedSpace(plan.space, settings.limits)
    limits = settings.limits.of_objectives(settings.latencies)

    def admits(candidate: Candidate, _target: str, vector: Objectives) -> bool:
        kept = all(limit is None or value <= limit for value, limit in zip(vector, limits, strict=True))
        return kept and settings.limits.admits_params(plan.space.decoder_params(candidate))

    algorithm = make_algorithm(
        settings.algorithm,
        space,
        targets=targets,
        n_objectives=len(limits),
        evaluations=settings.evaluations,
        rng=np.random.default_rng(settings.seed),
        lag=settings.in_flight - 1,
        evolution=settings.evolution_settings,
        exact_quality=plan.exact_quality,
        limits=limits,
        forecast=plan.forecast,
        predicted=settings.predicted,
    )
    return AskTell(algorithm, targets=targets, evaluations=settings.evaluations, admits=admits)
