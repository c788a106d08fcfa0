"""What each stage did for each granularity: its loss, and how consistent it is with the original model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lts_ray.device import autocast
from lts_ray.evaluation.consistency import Predictor, consistency
from lts_ray.models.matformer.matformer import MatFormer


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One granularity at one stage."""

    stage: str
    """`prefix` (as the neurons stood), `importance` (reordered) or `trained`."""
    submodel: str
    """The granularity's name."""
    decoder_params: int
    loss: float
    """Nats per token."""
    agreement: float
    """With the universal model of the same stage: the share of the same likeliest next tokens."""
    kl: float
    """KL(universal model of the same stage ‖ this one), in nats per token."""
    original_agreement: float
    """As `agreement`, with the model at the start."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_stage(
    stage: str,
    model: MatFormer,
    original: MatFormer,
    blocks: Tensor,
    precision: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ComparisonRow]:
    """The model's granularities on held-out text, blocks [N, T + 1]; precision: of the matrix products."""
    names = list(model.config.trained)
    predictors = [Predictor(model, submodel) for submodel in model.config.trained.values()]
    with autocast(model.weight.device, precision):
        total = 2 * len(blocks)
        own = consistency(predictors[-1], predictors, blocks, progress=lambda done, _: progress(done, total))
        before = consistency(
            Predictor(original, original.config.universal),
            predictors,
            blocks,
            progress=lambda done, _: progress(len(blocks) + done, total),
        )
    return [
        ComparisonRow(
            stage=stage,
            submodel=name,
            decoder_params=model.config.decoder_params(predictor.submodel),
            loss=with_own.loss,
            agreement=with_own.agreement,
            kl=with_own.kl,
            original_agreement=with_original.agreement,
        )
        for name, predictor, with_own, with_original in zip(names, predictors, own, before, strict=True)
    ]
