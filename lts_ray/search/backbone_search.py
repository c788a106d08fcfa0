"""Searching the architectures of a backbone before anything is trained; the result is what to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import torch

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.measurement.workload import Workload
from lts_ray.models.backbones.backbone_config import model_of
from lts_ray.proxies.few_shot import FewShotQuality
from lts_ray.proxies.proxy_table import Trained
from lts_ray.record import record_json
from lts_ray.search.algorithms.cost_forecast import CostForecast
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.search_job import SearchJob
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_results import kept_points
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.target import Target

SCHEMA = 2
ARCHITECTURES = "architectures.json"
FEWEST_EVALUATIONS = 20


def backbone_job(
    *,
    space: BackboneSpace,
    targets: tuple[Target, ...],
    settings: SearchSettings,
    trained: Sequence[Trained] = (),
    vocab_size: int | None = None,
) -> SearchJob[Architecture]:
    """trained: what the quality "few_shot" is fitted on. vocab_size: None takes that of the published models.

    Raises LtsRayError, also where the backbone has no room for a target's sequence.
    """
    context_length = max(target.sequence_length for target in targets) + int(space.can_decode)
    vocab_size = space.vocab_size if vocab_size is None else vocab_size
    with torch.device("meta"):
        model_of(space.backbone, space.seeds()[0], vocab_size, context_length)
    subject = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "trained": [{"architecture": row.architecture.to_json(), "perplexity": row.truth} for row in trained],
    }
    return SearchJob(
        plan=backbone_plan(space=space, subject=subject, targets=targets, settings=settings),
        workload=Workload(
            source=BackboneSource(backbone=space.backbone, vocab_size=vocab_size, context_length=context_length)
        ),
        results=BackboneResults(space=space),
    )


def backbone_plan(
    *, space: BackboneSpace, subject: Mapping[str, Any], targets: tuple[Target, ...], settings: SearchSettings
) -> SearchPlan[Architecture]:
    """subject: as `backbone_job` makes it; a search's log has it whole. Raises LtsRayError."""
    settings = _measurable(settings, space)
    if settings.quality == "validation_loss":
        raise LtsRayError("architectures are searched before they are trained: use quality decoder_params or few_shot")
    if (settings.quality == "few_shot") != bool(subject["trained"]):
        raise LtsRayError("quality few_shot and rows of trained architectures (--trained) go together")
    if settings.algorithm == "predicted" and settings.evaluations < FEWEST_EVALUATIONS:
        raise LtsRayError(
            f"the algorithm 'predicted' learns costs from two thirds of its evaluations: give it {FEWEST_EVALUATIONS} "
            f"or more; got {settings.evaluations}"
        )
    quality = _quality(space, subject["trained"])
    return SearchPlan(
        space=space,
        subject=subject,
        targets=targets,
        settings=settings,
        exact_quality=quality,
        forecast=CostForecast(space=space, quality=quality, latency=settings.latency),
    )


def _quality(space: BackboneSpace, trained: Sequence[Mapping[str, Any]]) -> Callable[[Architecture], float]:
    """As a loss: what training is expected to lead to, in nats per token, or LTS's proxy, all layers' parameters."""
    if not trained:
        return lambda architecture: -float(space.decoder_params(architecture))
    rows = [(Architecture.from_json(row["architecture"]), log(row["perplexity"])) for row in trained]
    few_shot = FewShotQuality.fit(*zip(*rows, strict=True))
    return lambda architecture: float(few_shot.predict([architecture])[0][0])


def _measurable(settings: SearchSettings, space: BackboneSpace) -> SearchSettings:
    """The settings with a latency that the space's models have: of encoders it is the prefill, their one pass."""
    if settings.latency == "both" and not space.can_decode:
        raise LtsRayError(
            f"models of the space {space.name} are encoders and have no decode step, so there are no two latencies: "
            f"search with --latency prefill, the time of a pass"
        )
    return settings if space.can_decode else replace(settings, latency="prefill")


@dataclass(frozen=True, kw_only=True)
class BackboneResults:
    space: BackboneSpace
    noun = "architectures"
    file_name = ARCHITECTURES

    @property
    def landmarks(self) -> Mapping[Architecture, str]:
        return {}

    def names(self, candidates: Sequence[Architecture]) -> Mapping[Architecture, str]:
        """By millions of parameters in the layers, told apart by a number where equal."""
        names: dict[Architecture, str] = {}
        counts: dict[str, int] = {}
        for candidate in sorted(candidates, key=lambda candidate: (self.space.decoder_params(candidate), candidate)):
            base = f"{self.space.decoder_params(candidate) / 1e6:.1f}M"
            counts[base] = counts.get(base, 0) + 1
            names[candidate] = base if counts[base] == 1 else f"{base}-{counts[base]}"
        return names

    def describe(self, candidate: Architecture) -> str:
        own = f"{candidate.n_layer} layers × {candidate.d_model}, {_layers(candidate.stacks[0])}"
        encoder = candidate.encoder
        return own if encoder is None else f"{own}; encoder of {encoder.n_layer} layers, {_layers(encoder)}"

    def write(self, session: SearchSession[Architecture], folder: Path) -> None:
        write_json(folder / ARCHITECTURES, self.to_json(session))

    def to_json(self, session: SearchSession[Architecture]) -> dict[str, Any]:
        """Raises LtsRayError when nothing could be evaluated."""
        plan = session.plan
        return {
            "schema": SCHEMA,
            "space": self.space.name,
            "quality": plan.settings.quality,
            "subject": dict(plan.subject),
            "targets": {target.name: record_json(target) for target in plan.targets},
            "points": [
                {
                    "name": point.name,
                    "architecture": point.candidate.to_json(),
                    **self.space.stack_params(point.candidate),
                    "total_params": self.space.count_total_params(
                        point.candidate, vocab_size=int(plan.subject["vocab_size"])
                    ),
                    **({} if plan.settings.quality == "decoder_params" else {"predicted_loss": point.loss}),
                    "costs": {name: record_json(cost) for name, cost in point.costs.items()},
                    "fronts": list(point.fronts),
                    "joint": point.is_joint,
                }
                for point in kept_points(session, self)
            ],
        }


def _layers(stack: Stack) -> str:
    heads, inner = (" ".join(map(str, values)) for values in (stack.n_head, stack.d_inner))
    return f"heads {heads}, d_inner {inner}"
