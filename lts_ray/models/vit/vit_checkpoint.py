"""A MatViT's files: the folder that transformers' ViTForImageClassification loads.

As with the language models, config.json has one key of ours, and a submodel with a width per layer, for which
transformers has no words, says so by its model type. How pixels become input stands in preprocessor_config.json, which
is transformers' place for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import make_folder, read_json, write_json
from lts_ray.models.checkpoint_folder import (
    check_fit,
    read_ours,
    read_raw_config,
    read_weights,
    reading,
    write_folder,
)
from lts_ray.models.elastic_config import GRANULARITIES
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.models.vit.vit_translator import CLASSIFIER, MODEL_TYPE, read_vit, to_ours, to_theirs, write_vit

SCHEMA = 1
PER_LAYER_MODEL_TYPE = "lts_ray_matvit"
MODEL_TYPES = (MODEL_TYPE, PER_LAYER_MODEL_TYPE)
PIXELS = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class VisionCheckpoint:
    """What a folder holds."""

    model: MatViT
    nests: bool
    """Whether it was trained to; a plain ViT was not."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """By granularity, on what training held out."""


def save_vit(
    model: MatViT, folder: Path, *, dtype: torch.dtype = torch.float32, accuracy: Mapping[str, float] | None = None
) -> None:
    """Write the folder of `model`; dtype: what its weights are stored in."""
    make_folder(folder)
    write_json(folder / PIXELS, _pixels(model.config))
    write_folder(folder, to_theirs(model.state_dict()), _raw_config(model.config, dtype, accuracy or {}), dtype=dtype)


def load_vit(folder: Path, *, labels: Sequence[str] | None = None) -> VisionCheckpoint:
    """Read a folder that `save_vit` wrote, or transformers' `save_pretrained`. What that wrote does not nest.

    labels: leave the folder's classifier, if it has one, and begin one of zeros for these classes.
    Raises LtsRayError for a folder that is missing, corrupt or of another kind of model.
    """
    config, ours = _read(folder)
    tensors = to_ours(read_weights(folder))
    if labels is not None:
        config = replace(config, labels=tuple(labels))
        tensors = {name: value for name, value in tensors.items() if not name.startswith(CLASSIFIER)}
        tensors[f"{CLASSIFIER}weight"] = torch.zeros(len(labels), config.d_model)
        tensors[f"{CLASSIFIER}bias"] = torch.zeros(len(labels))
    elif not any(name.startswith(CLASSIFIER) for name in tensors):
        raise LtsRayError(f"model {folder} has no classifier: it was saved without; fine-tune it with new_classifier")
    with torch.device("meta"):
        model = MatViT(config)
    check_fit(folder, model, tensors)
    model = model.to_empty(device="cpu")
    model.load_state_dict(tensors)
    return VisionCheckpoint(
        model=model.float().eval(), nests=len(ours.get("granularities", ())) > 1, accuracy=ours.get("accuracy", {})
    )


def _read(folder: Path) -> tuple[MatViTConfig, dict[str, Any]]:
    """The configuration, and what of config.json is ours; nothing where plain transformers wrote it."""
    raw = read_raw_config(folder)
    if raw.get("model_type") not in MODEL_TYPES:
        raise LtsRayError(
            f"model {folder} is of type {raw.get('model_type')!r}; lts-ray vit loads {', '.join(MODEL_TYPES)}"
        )
    ours = read_ours(folder, raw, SCHEMA)
    with reading(folder):
        config = read_vit(raw)
        config = replace(
            config,
            widths=tuple(ours.get("widths") or config.widths),
            granularities=ours.get("granularities") or GRANULARITIES,
        )
        config = _with_pixels(config, folder)
    return config, ours


def _raw_config(config: MatViTConfig, dtype: torch.dtype, accuracy: Mapping[str, float]) -> dict[str, Any]:
    uniform = len(set(config.widths)) == 1
    ours: dict[str, Any] = {"schema": SCHEMA, "granularities": dict(config.granularities)}
    if not uniform:
        ours["widths"] = list(config.widths)
    if accuracy:
        ours["accuracy"] = dict(accuracy)
    return {
        "architectures": ["ViTForImageClassification" if uniform else "MatViT"],
        "model_type": MODEL_TYPE if uniform else PER_LAYER_MODEL_TYPE,
        **write_vit(config),
        "dtype": str(dtype).removeprefix("torch."),
        "lts_ray": ours,
    }


def _pixels(config: MatViTConfig) -> dict[str, Any]:
    height, width = config.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean) * (config.channels // len(config.pixel_mean)),
        "image_std": list(config.pixel_std) * (config.channels // len(config.pixel_std)),
    }


def _with_pixels(config: MatViTConfig, folder: Path) -> MatViTConfig:
    """As it is where the folder does not say: ViT's own 0.5 and 0.5."""
    if not (folder / PIXELS).exists():
        return config
    raw = read_json(folder / PIXELS, what="preprocessor configuration")
    if raw.get("do_normalize") is False:
        return replace(config, pixel_mean=(0.0,), pixel_std=(1.0,))
    mean, std = raw.get("image_mean", config.pixel_mean), raw.get("image_std", config.pixel_std)
    return replace(config, pixel_mean=tuple(map(float, mean)), pixel_std=tuple(map(float, std)))
