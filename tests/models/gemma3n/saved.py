"""The folder of a Gemma 3n that was built here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lts_ray.models.checkpoint_folder import write_folder
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.raw_config import write_raw


def save_gemma3n(
    model: Gemma3n,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    validation_loss: Mapping[str, float] | None = None,
) -> None:
    """Write the decoder's folder, as of transformers' Gemma3nForCausalLM; dtype: what its weights are stored in."""
    config = write_raw(model.config) | {"dtype": str(dtype).removeprefix("torch.")}
    if validation_loss:
        config["lts_ray"]["validation_loss"] = dict(validation_loss)
    write_folder(folder, {f"model.{name}": value for name, value in model.state_dict().items()}, config, dtype=dtype)
