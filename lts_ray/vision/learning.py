"""What one step of training a MatViT minimises (MatFormer, equation 2): classes in place of next tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.vit.matvit import MatViT
from lts_ray.training.learners.objective import Objective
from lts_ray.training.learners.universal_learner import Passes
from lts_ray.vision.images import Images, normalize


def propagate(
    model: MatViT, images: Images, step: int, objective: Objective, *, passes: Passes, precision: str
) -> dict[str, float]:
    """Add the step's gradients to the parameters'; returns the loss of each granularity that learns, in nats.

    passes: all granularities in one pass, or a pass for each, which takes less memory.
    """
    shares = objective.shares(step)
    groups = [shares] if passes == "mixed" else [{name: share} for name, share in shares.items()]
    found: dict[str, float] = {}
    for group in groups:
        with torch.autocast(images.pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            losses = losses_of(model, images, group)
        weighted = torch.stack([share * losses[name] for name, share in group.items()]).sum()
        weighted.backward()  # type: ignore[no-untyped-call]
        found |= {name: float(loss.detach()) for name, loss in losses.items()}
    return found


def losses_of(model: MatViT, images: Images, shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Of each granularity that is named, all in one pass."""
    submodels = [model.config.trained[name] for name in shares]
    pixels = normalize(images.pixels, model.config)
    encoded = model.encode(pixels, submodel=submodels[0]) if len(submodels) == 1 else model.fan_out(pixels, submodels)
    logits = model.classify(encoded).float().view(len(submodels), len(images), -1)  # [G, B, classes]
    return {name: functional.cross_entropy(each, images.labels) for name, each in zip(shares, logits, strict=True)}
