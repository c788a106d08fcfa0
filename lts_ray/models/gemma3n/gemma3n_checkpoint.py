"""A Gemma 3n's files: the Hugging Face folder, of the whole model or of its decoder alone.

Only the decoder is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.checkpoint_folder import (
    check_fit,
    digest_of,
    read_ours,
    read_raw_config,
    reading,
    refuse_quantized,
)
from lts_ray.models.gemma3n.cut import ANCHOR, prefix_of
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.raw_config import MODEL_TYPES, SCHEMA, read_raw, write_raw
from lts_ray.models.gemma3n.tensor_files import Stored, TensorFiles
from lts_ray.models.matformer.hugging_face.checkpoint import Checkpoint

UNUSED = ("self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight")
"""Of layers that look at another's keys: the published files have them, and nothing reads them."""


def load_gemma3n(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Checkpoint[Gemma3n]:
    """Read a folder of transformers or of ours, whole or in shards, a tensor at a time.

    Raises LtsRayError for a folder that is missing, corrupt or of another kind of model, and for a setting that
    changes what it computes and that we do not have.
    """
    config, validation_loss = read_gemma3n_config(folder)
    with torch.device("meta"):
        model = Gemma3n(config)
    with TensorFiles(folder) as files:
        decoder = check_weights(folder, config, files)
        head = files.tensors.get("lm_head.weight")
        if head is not None and not torch.equal(head.read(), decoder[ANCHOR].read()):
            raise LtsRayError(f"model {folder} has an lm_head.weight of its own; lts-ray only has its embedding's")
        model = model.to(dtype).to_empty(device=device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(decoder[name].read())
    return Checkpoint(model=model.eval(), fingerprint=gemma3n_fingerprint(folder), validation_loss=validation_loss)


def read_gemma3n_config(folder: Path) -> tuple[Gemma3nConfig, dict[str, float]]:
    """The shape of the model in `folder` and its validation losses, without reading the weights."""
    raw = read_raw_config(folder)
    if raw.get("model_type") not in MODEL_TYPES:
        raise LtsRayError(f"model {folder} is of type {raw.get('model_type')!r}, not one of {', '.join(MODEL_TYPES)}")
    refuse_quantized(folder, raw)
    ours = read_ours(folder, raw, SCHEMA)
    with reading(folder):
        losses = {str(name): float(value) for name, value in ours.get("validation_loss", {}).items()}
        return read_raw(raw), losses


def gemma3n_fingerprint(folder: Path) -> str:
    """SHA-256 of what determines the model's function: shape and weights, not what training noted beside them."""
    config = replace(read_gemma3n_config(folder)[0], bos_token_id=0, eos_token_id=0)
    return digest_of(folder, write_raw(config))


def check_weights(folder: Path, config: Gemma3nConfig, files: TensorFiles) -> dict[str, Stored]:
    """The decoder's tensors by our names. Raises LtsRayError, naming the first difference, unless they fit `config`."""
    with reading(folder):
        prefix = prefix_of(files.tensors)
    unused = {f"layers.{layer}.{part}" for layer in range(config.first_shared, config.n_layer) for part in UNUSED}
    decoder = {
        name.removeprefix(prefix): stored
        for name, stored in files.tensors.items()
        if name.startswith(prefix) and not name.startswith("lm_head.")
    }
    decoder = {name: stored for name, stored in decoder.items() if name not in unused}
    with torch.device("meta"):
        model = Gemma3n(config)
        empty = {name: torch.empty(stored.shape) for name, stored in decoder.items()}
    check_fit(folder, model, empty)
    return decoder
