"""The folder of a trained backbone. Its model type is our own: plain transformers has no model to load it into.

config.json says all that is not in the weights under its key `lts_ray`; the tokenizer lies beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_config import BACKBONES, BackboneConfig
from lts_ray.models.checkpoint_folder import (
    BACKBONE_MODEL_TYPES,
    CONFIG,
    check_fit,
    digest_of,
    read_ours,
    read_raw_config,
    read_weights,
    write_folder,
)
from lts_ray.models.matformer.hugging_face.checkpoint import UNIVERSAL_MODEL_TYPES

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class BackboneCheckpoint:
    """A loaded model and what its folder says of it."""

    model: Backbone
    config: BackboneConfig
    fingerprint: str
    """SHA-256 of the configuration and weights."""
    validation_loss: float | None = None
    """Nats per token, as training measured it; None where unknown."""


def save_backbone(
    model: Backbone,
    config: BackboneConfig,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    validation_loss: float | None = None,
) -> None:
    """config: what `model` was built from."""
    raw = {
        "model_type": config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "lts_ray": {"schema": SCHEMA, **config.to_json(), "validation_loss": validation_loss},
    }
    write_folder(folder, model.state_dict(), raw, dtype=dtype)


def load_backbone(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> BackboneCheckpoint:
    """Read a folder that `save_backbone` wrote.

    Raises LtsRayError for a folder that is missing, corrupt or of another kind of model.
    """
    config, validation_loss = read_backbone_config(folder)
    tensors = read_weights(folder)
    check_fit(folder, config.skeleton(), tensors)
    model = config.build()  # not the skeleton: tables that are computed are in no file
    model.load_state_dict(tensors)
    return BackboneCheckpoint(
        model=model.to(device=device, dtype=dtype).eval(),
        config=config,
        fingerprint=digest_of(folder, config.to_json()),
        validation_loss=validation_loss,
    )


def is_backbone(folder: Path) -> bool:
    """Whether the model in `folder` is a trained backbone. Raises LtsRayError where there is no model."""
    return str(read_raw_config(folder).get("model_type")) in BACKBONE_MODEL_TYPES


def read_backbone_config(folder: Path) -> tuple[BackboneConfig, float | None]:
    """What the model in `folder` is and its validation loss, without reading the weights."""
    raw = read_raw_config(folder)
    model_type = str(raw.get("model_type"))
    if model_type not in BACKBONE_MODEL_TYPES:
        kind = "a universal model" if model_type in UNIVERSAL_MODEL_TYPES else f"of type {model_type!r}"
        raise LtsRayError(f"model {folder} is {kind}, not a trained backbone ({', '.join(BACKBONES)})")
    ours = read_ours(folder, raw, SCHEMA)
    try:
        config = BackboneConfig.from_json({field.name: ours[field.name] for field in fields(BackboneConfig)})
        config.skeleton()
        loss = ours.get("validation_loss")
        validation_loss = None if loss is None else float(loss)
    except (LtsRayError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error) if isinstance(error, LtsRayError) else repr(error)
        raise LtsRayError(f"model configuration {folder / CONFIG} is not usable: {reason}") from None
    if config.model_type != model_type:
        raise LtsRayError(f"model {folder} is of type {model_type!r}, but names the backbone {config.backbone!r}")
    return config, validation_loss
