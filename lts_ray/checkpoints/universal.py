"""Any universal model's folder, whatever its blocks: what evaluating, measuring and serving load.

Training, elasticizing and drafts over a vocabulary of their own need a `MatFormer`:
lts_ray.models.matformer.hugging_face.checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lts_ray.models.checkpoint_folder import read_raw_config
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_checkpoint import gemma3n_fingerprint, load_gemma3n, read_gemma3n_config
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.raw_config import MODEL_TYPES as GEMMA3N
from lts_ray.models.matformer.hugging_face import checkpoint
from lts_ray.models.matformer.hugging_face.checkpoint import Checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.universal_model import UniversalModel


def load_universal(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Checkpoint[UniversalModel]:
    """As `load_checkpoint`; Gemma 3n too. Raises LtsRayError."""
    if is_gemma3n(folder):
        return load_gemma3n(folder, dtype=dtype, device=device)
    return checkpoint.load_checkpoint(folder, dtype=dtype, device=device)


def build_universal(config: DecoderConfig) -> UniversalModel:
    """With weights that mean nothing yet."""
    if isinstance(config, Gemma3nConfig):
        return Gemma3n(config)
    assert isinstance(config, MatFormerConfig)
    return MatFormer(config)


def read_universal(folder: Path) -> tuple[DecoderConfig, dict[str, float]]:
    """The shape of the model in `folder` and its validation losses, without reading the weights."""
    return read_gemma3n_config(folder) if is_gemma3n(folder) else checkpoint.read_config(folder)


def vouched(config: DecoderConfig, validation_loss: Mapping[str, float]) -> frozenset[str]:
    """Those granularities that are models by more than their name, the universal model among them.

    A training that has nested them has measured their losses; Gemma 3n is nested as it is published. In any other
    checkpoint a part of the model is not one that was ever trained.
    """
    if isinstance(config, Gemma3nConfig):
        return frozenset(config.trained)
    whole = {name for name, submodel in config.trained.items() if submodel == config.universal}
    return frozenset(whole | (validation_loss.keys() & config.trained.keys()))


def universal_fingerprint(folder: Path) -> str:
    """SHA-256 of what determines the model's function."""
    return gemma3n_fingerprint(folder) if is_gemma3n(folder) else checkpoint.fingerprint(folder)


def is_gemma3n(folder: Path) -> bool:
    return read_raw_config(folder).get("model_type") in GEMMA3N
