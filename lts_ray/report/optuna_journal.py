"""The run as Optuna studies in a journal file, which optuna-dashboard opens: one study per target."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from lts_ray.files import replacing
from lts_ray.frontier import QUALITY_KEYS
from lts_ray.measurement.measurement import Failed
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Gene

JOURNAL = "optuna.journal"
CONSTRAINTS = "constraints"
"""Where Optuna and its dashboard look for them: numbers that are above 0 where a limit is broken."""


def write_study(session: SearchSession[Any], path: Path) -> None:
    """Written anew each time, from the session's log. Failed candidates are failed trials.

    The trials' times are those of writing: the log has none.
    """
    settings = session.plan.settings
    _, *costs = settings.objective_names
    best = StudyDirection.MAXIMIZE if settings.quality == "decoder_params" else StudyDirection.MINIMIZE
    directions = [best, *[StudyDirection.MINIMIZE] * len(costs)]
    with replacing(path) as temporary, _quiet():
        storage = JournalStorage(JournalFileBackend(str(temporary), JournalFileOpenLock(str(temporary))))
        for target in session.plan.targets:
            study = optuna.create_study(storage=storage, study_name=target.name, directions=directions)
            study.set_metric_names([QUALITY_KEYS[settings.quality], *costs])
            study.set_user_attr("space", session.plan.space.name)
            study.set_user_attr("algorithm", settings.algorithm)
            study.set_user_attr("seed", settings.seed)
            study.add_trials(_trials(session, target.name))


def _trials(session: SearchSession[Any], target: str) -> list[optuna.trial.FrozenTrial]:
    space, vectors, settings = session.plan.space, session.vectors(target), session.plan.settings
    known = {gene.name: _distribution(gene) for gene in space.genes}
    trials = []
    for candidate, outcome in session.outcomes.items():
        genes = dict(space.to_genes(candidate))
        params = space.decoder_params(candidate)
        attributes: dict[str, Any] = {"decoder_params": params, "candidate": space.to_json(candidate)}
        if isinstance(outcome, Failed):
            state, values, constraints = TrialState.FAIL, None, {}
            attributes["failed"] = outcome.reason
        else:
            quality, *costs = vectors[candidate]
            state = TrialState.COMPLETE
            values = [float(params) if settings.quality == "decoder_params" else quality, *costs]
            broken = _over_the_limits(session, params, costs)
            constraints = {CONSTRAINTS: broken} if broken else {}
        trials.append(
            create_trial(
                state=state,
                values=values,
                params=genes,
                distributions={name: known[name] for name in genes},
                user_attrs=attributes,
                system_attrs=constraints,
            )
        )
    return trials


def _distribution(gene: Gene) -> BaseDistribution:
    """With the step between the choices, where there is one."""
    steps = {high - low for low, high in zip(gene.choices, gene.choices[1:], strict=False)}
    return IntDistribution(min(gene.choices), max(gene.choices), step=steps.pop() if len(steps) == 1 else 1)


def _over_the_limits(session: SearchSession[Any], params: int, costs: list[float]) -> list[float]:
    """By how much each limit is broken; empty where there are none."""
    settings = session.plan.settings
    limits = settings.limits
    over = [
        cost - most
        for cost, most in zip(costs, limits.of_objectives(settings.latencies)[1:], strict=True)
        if most is not None
    ]
    if limits.min_decoder_params is not None:
        over.append(float(limits.min_decoder_params - params))
    if limits.max_decoder_params is not None:
        over.append(float(params - limits.max_decoder_params))
    return over


@contextmanager
def _quiet() -> Iterator[None]:
    """No line for each study, and no warning that metric names are experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
