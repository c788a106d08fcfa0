"""Searching the submodels of a trained universal model; the result is the frontier that serving reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import torch

from lts_ray.checkpoints.model_tokenizer import check_tokenizer
from lts_ray.checkpoints.universal import load_universal, read_universal
from lts_ray.errors import LtsRayError
from lts_ray.frontier import MEASURED, Frontier, FrontierPoint, Quality, write_frontier
from lts_ray.measurement.steps import check_fits
from lts_ray.measurement.subjects.submodel_subject import UniversalSource, check_precisions, weights_of
from lts_ray.measurement.workload import Workload
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.precision import DEFAULT_PRECISIONS, QUANTISED, Precision
from lts_ray.quantisation.quantised_weights import QuantisedWeights
from lts_ray.runtime.kernel_library import kernel_library
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.search_job import SearchJob
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_results import kept_points
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.named_spaces import submodel_space
from lts_ray.submodel import Submodel
from lts_ray.target import Target

FRONTIER = "frontier.json"


def submodel_job(
    *,
    model_dir: Path,
    space: str,
    targets: tuple[Target, ...],
    settings: SearchSettings,
    validation_blocks: torch.Tensor | None,
) -> SearchJob[Submodel]:
    """validation_blocks: [N, T + 1], int64; needed for the quality "validation_loss". Raises LtsRayError."""
    check_tokenizer(model_dir, vocab_size=read_universal(model_dir)[0].vocab_size)
    checkpoint = load_universal(model_dir)
    model, precisions = checkpoint.model, settings.precisions
    for target in targets:
        check_fits(model.config.context_length, target.sequence_length)
        check_precisions(target, precisions)
    measured = settings.quality == "validation_loss"
    if measured and (validation_blocks is None or not len(validation_blocks)):
        raise LtsRayError("the quality validation_loss needs text: name some, or search with quality decoder_params")
    blocks = validation_blocks if measured else None
    plan = submodel_plan(
        config=model.config,
        model_fingerprint=checkpoint.fingerprint,
        validation_fingerprint=None if blocks is None else _fingerprint(blocks),
        rounding_fingerprint=_rounding_fingerprint(
            checkpoint.quantised, model.config.chosen_precisions(settings.precisions)
        ),
        space=space,
        targets=targets,
        settings=settings,
    )
    return SearchJob(
        plan=plan,
        workload=Workload(
            source=UniversalSource(model.config, precisions),
            payload=weights_of(model, checkpoint.quantised),
            blocks=None if blocks is None else blocks.numpy(),
        ),
        results=SubmodelResults(config=model.config, model_fingerprint=checkpoint.fingerprint, precisions=precisions),
    )


def default_precisions(model_dir: Path, targets: Sequence[Target], quality: Quality) -> tuple[Precision, ...] | None:
    """What serving would serve on all of the targets; the most precise alone where parameters stand for quality."""
    served = read_universal(model_dir)[0].precisions
    chosen = tuple(each for each in DEFAULT_PRECISIONS if each in served)
    plain = all((target.device, target.dtype) == ("cpu", STORED) for target in targets)
    if not plain or chosen in ((), (STORED,)) or kernel_library() is None:
        return None
    return chosen[:1] if quality == "decoder_params" else chosen


def submodel_plan(
    *,
    config: DecoderConfig,
    model_fingerprint: str,
    validation_fingerprint: str | None,
    rounding_fingerprint: str | None,
    space: str,
    targets: tuple[Target, ...],
    settings: SearchSettings,
) -> SearchPlan[Submodel]:
    chosen = submodel_space(space, config, precisions=settings.precisions)
    if settings.quality == "decoder_params" and len(settings.precisions or ()) > 1:
        raise LtsRayError("decoder_params are the same at all precisions: name one, or search with validation_loss")
    if settings.quality == "few_shot":
        raise LtsRayError("the quality few_shot is for spaces of backbones: a universal model's loss is measured")
    exact = None if settings.quality == "validation_loss" else lambda submodel: -float(chosen.decoder_params(submodel))
    return SearchPlan(
        space=chosen,
        subject={
            "model_fingerprint": model_fingerprint,
            "validation_fingerprint": validation_fingerprint,
            "rounding_fingerprint": rounding_fingerprint,
        },
        targets=targets,
        settings=settings,
        exact_quality=exact,
        pooled_by=attrgetter("precision"),
    )


@dataclass(frozen=True, kw_only=True)
class SubmodelResults:
    config: DecoderConfig
    model_fingerprint: str
    precisions: Sequence[str] | None = None
    """That were searched; None: as the model is stored."""
    noun = "submodels"
    file_name = FRONTIER

    @cached_property
    def landmarks(self) -> Mapping[Submodel, str]:
        return {
            (each := self.config.check(replace(submodel, precision=precision))): name + _mark(each)
            for name, submodel in self.config.trained.items()
            for precision in self.precisions or ("",)
        }

    def names(self, candidates: Sequence[Submodel]) -> Mapping[Submodel, str]:
        """A granularity's own, else the relative size, told apart by a letter where equal; the precision behind it."""
        names = dict(self.landmarks)
        taken = set(names.values())
        for submodel in sorted(set(candidates) - names.keys()):
            base, mark = f"{self.config.relative_size(submodel):.2f}", _mark(submodel)
            suffixes = ["", *(chr(ord("b") + i) for i in range(25)), *(f"-{27 + i}" for i in range(len(candidates)))]
            names[submodel] = next(name for each in suffixes if (name := base + each + mark) not in taken)
            taken.add(names[submodel])
        return {submodel: names[submodel] for submodel in candidates}

    def describe(self, candidate: Submodel) -> str:
        return candidate.text.replace(",", " · ")

    def frontier(self, session: SearchSession[Submodel]) -> Frontier:
        """Raises LtsRayError when nothing could be evaluated."""
        plan = session.plan
        points = [
            FrontierPoint(
                name=point.name,
                submodel=point.candidate,
                decoder_params=point.decoder_params,
                loss=point.loss if plan.settings.quality == MEASURED else None,
                costs=point.costs,
                fronts=point.fronts,
            )
            for point in kept_points(session, self)
            if point.fronts or point.candidate in self.landmarks
        ]
        return Frontier(
            model_fingerprint=self.model_fingerprint,
            quality=plan.settings.quality,
            targets={target.name: target for target in plan.targets},
            points=tuple(sorted(points, key=lambda point: (point.shortfall, point.submodel))),
        )

    def write(self, session: SearchSession[Submodel], folder: Path) -> None:
        write_frontier(self.frontier(session), folder / FRONTIER)


def _mark(submodel: Submodel) -> str:
    return submodel.precision and f"@{submodel.precision}"


def _rounding_fingerprint(quantised: QuantisedWeights | None, precisions: Sequence[str]) -> str | None:
    """Of what int8 and int4 stand for; None where it is not searched, or rounded to the nearest."""
    if quantised is None or not set(precisions) & set(QUANTISED):
        return None
    digest = hashlib.sha256()
    for name, matrix in sorted(quantised.items()):
        digest.update(name.encode() + matrix.codes.numpy().tobytes() + matrix.scales.numpy().tobytes())
    return digest.hexdigest()


def _fingerprint(blocks: torch.Tensor) -> str:
    return hashlib.sha256(str(tuple(blocks.shape)).encode() + blocks.to(torch.int64).numpy().tobytes()).hexdigest()
