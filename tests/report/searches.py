"""Searches to report on, of both kinds, whose costs are made up: they scatter as measured ones do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from lts_ray.architecture import Architecture
from lts_ray.frontier import Quality
from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.measurement.steps import Regime
from lts_ray.precision import Precision
from lts_ray.search.algorithms.search_settings import AlgorithmName, LatencyRegime, SearchSettings
from lts_ray.search.backbone_search import BackboneResults
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_session import SearchSession
from lts_ray.search.submodel_search import SubmodelResults
from lts_ray.spaces.gpt2_space import SPACE
from lts_ray.spaces.limits import Limits
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.search.drive import drive
from tests.search.fake_evaluator import FakeEvaluator
from tests.search.helpers import CONFIG, SMALL

TARGETS = ("slow", "fast")
SUBMODELS = SubmodelResults(config=CONFIG, model_fingerprint="f" * 64)
ARCHITECTURES = BackboneResults(space=SPACE)


def scattered(regime: Regime, milliseconds: float, random: Random, *, unsteady: bool = False) -> Latency:
    """Seven blocks of three runs, each at a moment of its own; an unsteady one has a spread past the mark."""
    spread = 0.5 if unsteady else 0.02
    blocks = []
    for _ in range(7):
        slowdown = random.uniform(1.0, 1.1)
        times = tuple(milliseconds * slowdown * random.uniform(1.0, 1 + spread) for _ in range(3))
        blocks.append(TimedBlock(times_ms=times, slowdown=slowdown))
    return Latency(regime=regime, threads=1, blocks=tuple(blocks), reference_ms=1.0)


class ScatteredEvaluator:
    """Costs of `FakeEvaluator`, or for an architecture made up from its shape, with a scatter of their own.

    unsteady: every how many-th candidate is measured badly. failing: every how many-th fails. 0: none.
    """

    def __init__(self, targets: Sequence[str] = TARGETS, *, seed: int = 0, unsteady: int = 0, failing: int = 0) -> None:
        self._targets, self._seed, self._count = tuple(targets), seed, 0
        self._unsteady, self._failing = unsteady, failing
        self._plain = FakeEvaluator(self._targets)

    def evaluate(self, candidate: Any) -> Evaluation | Failed:
        self._count += 1
        if self._failing and self._count % self._failing == 0:
            return Failed(reason="told to fail")
        unsteady = bool(self._unsteady and self._count % self._unsteady == 0)
        random = Random(f"{self._seed} {candidate}")
        plain = self._plain.evaluate(candidate) if isinstance(candidate, Submodel) else evaluated(candidate)
        assert isinstance(plain, Evaluation)
        return Evaluation(
            loss=plain.loss + (random.gauss(0, 0.01) if isinstance(candidate, Submodel) else 0),
            measurements={
                name: Measurement(
                    prefill=scattered("prefill", plain.measurements[name].cost.prefill_ms, random),
                    decode=scattered("decode", plain.measurements[name].cost.decode_ms, random, unsteady=unsteady),
                    peak_memory_bytes=plain.measurements[name].peak_memory_bytes,
                )
                for name in self._targets
            },
        )


def evaluated(architecture: Architecture) -> Evaluation:
    """The slow target minds arithmetic, the fast one the number of layers; chance has its part in both."""
    random = Random(str(architecture))
    params = SPACE.decoder_params(architecture)
    heads = sum(architecture.n_head)
    times = {
        "slow": (params / 6e5 + 1.5 * architecture.n_layer + heads / 4) * random.uniform(1, 1.7),
        "fast": (params / 9e6 + 1.5 * architecture.n_layer + heads / 9) * random.uniform(1, 1.5),
    }
    return Evaluation(
        loss=-float(params),
        measurements={
            name: Measurement(
                prefill=Latency(regime="prefill", threads=1, blocks=(TimedBlock(times_ms=(ms,)),)),
                decode=Latency(regime="decode", threads=1, blocks=(TimedBlock(times_ms=(ms / 9,)),)),
                peak_memory_bytes=4 * params + 200_000 * architecture.d_model + 30_000 * max(architecture.d_inner),
            )
            for name, ms in times.items()
        },
    )


def submodel_search(
    folder: Path,
    *,
    algorithm: AlgorithmName = "lts",
    seed: int = 0,
    evaluations: int = 60,
    latency: LatencyRegime = "decode",
    quality: Quality = "validation_loss",
    targets: Sequence[str] = TARGETS,
    unsteady: int = 0,
    failing: int = 0,
    precisions: tuple[Precision, ...] | None = None,
) -> SearchSession[Submodel]:
    plan = SearchPlan(
        space=MixNMatch(CONFIG, precisions=precisions),
        subject={"model_fingerprint": "f" * 64, "validation_fingerprint": None},
        targets=tuple(Target(name=name, label_selector={"role": name}) for name in targets),
        settings=SearchSettings(
            evaluations=evaluations,
            seed=seed,
            algorithm=algorithm,
            latency=latency,
            quality=quality,
            precisions=precisions,
            evolution=SMALL,
        ),
    )
    session = SearchSession(plan, folder, resume=False)
    drive(session, ScatteredEvaluator(targets, seed=seed, unsteady=unsteady, failing=failing))
    return session


def backbone_search(
    folder: Path,
    *,
    algorithm: AlgorithmName = "lts",
    seed: int = 0,
    evaluations: int = 60,
    quality: Quality = "decoder_params",
    latency: LatencyRegime = "decode",
    limits: Limits | None = None,
    failing: int = 0,
) -> SearchSession[Architecture]:
    plan = SearchPlan(
        space=SPACE,
        subject={"vocab_size": SPACE.vocab_size, "context_length": 193, "few_shot_fingerprint": None},
        targets=tuple(Target(name=name, label_selector={"role": name}) for name in TARGETS),
        settings=SearchSettings(
            evaluations=evaluations,
            seed=seed,
            algorithm=algorithm,
            quality=quality,
            latency=latency,
            limits=limits or Limits(),
        ),
    )
    session = SearchSession(plan, folder, resume=False)
    evaluator = ScatteredEvaluator(seed=seed, failing=failing)
    while (candidate := session.ask()) is not None:
        outcome = evaluator.evaluate(candidate)
        if quality == "few_shot" and isinstance(outcome, Evaluation):
            outcome = replace(outcome, loss=4 - 0.1 * (-outcome.loss / 1e6) ** 0.5)
        session.record(candidate, outcome)
    return session
