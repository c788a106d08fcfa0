"""A small model's search, with costs that are computed and not measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import Precision
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.registry import make_algorithm
from lts_ray.search.algorithms.search_settings import AlgorithmName, EvolutionSettings, SearchSettings
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_session import SearchSession, objectives
from lts_ray.search.submodel_search import SubmodelResults
from lts_ray.spaces.limited_space import LimitedSpace
from lts_ray.spaces.limits import Limits
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.search.fake_evaluator import FakeEvaluator

CONFIG = MatFormerConfig(vocab_size=32, d_model=16, n_head=2, n_kv_head=1, widths=(64, 64, 64, 64), context_length=32)
SMALL = EvolutionSettings(population=12, parents=4, mutants=5, crossovers=5)
TARGETS = ("slow", "fast")


def search_by(
    algorithm: AlgorithmName = "lts",
    *,
    seed: int = 0,
    evaluations: int = 60,
    config: MatFormerConfig = CONFIG,
    lag: int = 0,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> AskTell[Submodel]:
    space = LimitedSpace(MixNMatch(config), limits)
    chosen = make_algorithm(
        algorithm,
        space,
        targets=TARGETS,
        n_objectives=4,
        evaluations=evaluations,
        rng=np.random.default_rng(seed),
        lag=lag,
        evolution=SMALL,
    )
    return AskTell(chosen, targets=TARGETS, evaluations=evaluations)


def evolution(*, seed: int = 0, evaluations: int = 60, config: MatFormerConfig = CONFIG) -> AskTell[Submodel]:
    return search_by("lts", seed=seed, evaluations=evaluations, config=config)


def result_of(submodel: Submodel) -> dict[str, tuple[float, ...]]:
    outcome = FakeEvaluator(TARGETS).evaluate(submodel)
    return {target: objectives(outcome, target, "both") for target in TARGETS}


def ask_all(search: AskTell[Submodel]) -> list[Submodel]:
    asked = []
    while (submodel := search.ask()) is not None:
        asked.append(submodel)
    return asked


def plan(
    *,
    evaluations: int = 60,
    seed: int = 0,
    algorithm: AlgorithmName = "lts",
    precisions: tuple[Precision, ...] | None = None,
) -> SearchPlan[Submodel]:
    return SearchPlan(
        space=MixNMatch(CONFIG, precisions=precisions),
        subject={"model_fingerprint": "f" * 64, "validation_fingerprint": None},
        targets=tuple(Target(name=name, label_selector={"role": name}) for name in TARGETS),
        settings=SearchSettings(
            evaluations=evaluations, seed=seed, algorithm=algorithm, precisions=precisions, evolution=SMALL
        ),
    )


RESULTS = SubmodelResults(config=CONFIG, model_fingerprint="f" * 64)


def session(
    folder: Path,
    *,
    resume: bool = False,
    evaluations: int = 60,
    seed: int = 0,
    algorithm: AlgorithmName = "lts",
) -> SearchSession[Submodel]:
    return SearchSession(plan(evaluations=evaluations, seed=seed, algorithm=algorithm), folder, resume=resume)
