"""What a report shows, as plain data: taken from a search's session, drawn by `plots`, laid out by `html`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lts_ray.architecture import Submodel
from lts_ray.frontier import Cost, Frontier, Quality
from lts_ray.measurement.evaluation import Evaluation
from lts_ray.search.session import SearchSession


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One candidate that could be evaluated."""

    submodel: Submodel
    decoder_params: int
    loss: float
    costs: Mapping[str, Cost]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """granularities: names of the trained submodels. hypervolumes: per target, one value per finished evaluation.

    unsteady: per target, how many submodels have a latency whose spread makes it doubtful.
    """

    frontier: Frontier
    evaluated: tuple[Evaluated, ...]
    granularities: Mapping[Submodel, str]
    hypervolumes: Mapping[str, tuple[float, ...]]
    unsteady: Mapping[str, int]
    failed: int
    exhausted: bool
    space: str
    seed: int

    @property
    def quality(self) -> Quality:
        return self.frontier.quality


def report_data(session: SearchSession) -> ReportData:
    plan = session.plan
    evaluated = tuple(
        Evaluated(
            submodel=submodel,
            decoder_params=plan.space.decoder_params(submodel),
            loss=outcome.loss,
            costs={target: each.cost for target, each in outcome.measurements.items()},
        )
        for submodel, outcome in session.outcomes.items()
        if isinstance(outcome, Evaluation)
    )
    return ReportData(
        frontier=session.frontier(),
        evaluated=evaluated,
        granularities={submodel: name for name, submodel in plan.config.trained.items()},
        hypervolumes={target.name: _hypervolumes(session, target.name) for target in plan.targets},
        unsteady={target.name: _unsteady(session, target.name) for target in plan.targets},
        failed=len(session.outcomes) - len(evaluated),
        exhausted=session.is_exhausted,
        space=plan.space.name,
        seed=plan.settings.seed,
    )


def _hypervolumes(session: SearchSession, target: str) -> tuple[float, ...]:
    """After 1, 2, … evaluations."""
    items = list(session.vectors(target).items())
    return tuple(session.hypervolume(target, dict(items[:count])) for count in range(1, len(items) + 1))


def _unsteady(session: SearchSession, target: str) -> int:
    measured = [each.measurements[target] for each in session.outcomes.values() if isinstance(each, Evaluation)]
    return sum(each.prefill.is_unsteady or each.decode.is_unsteady for each in measured)
