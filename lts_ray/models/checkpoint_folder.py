"""The two files of every checkpoint, whatever model it holds: config.json and model.safetensors.

Both are written atomically, the configuration last: a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, replacing, write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_folder(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, dtype: torch.dtype) -> None:
    """dtype: what the weights are stored in."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.detach().to(dtype).contiguous() for name, value in tensors.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(stored, temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def read_raw_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LtsRayError(f"model {folder} is not a folder; give one with {CONFIG} and {WEIGHTS}")
    return read_json(folder / CONFIG, what="model configuration")


def read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise LtsRayError(f"model {folder} has no {path.name}") from None
    except (OSError, SafetensorError, struct.error) as error:
        raise LtsRayError(f"weights {path} are corrupt or not safetensors: {error}") from None


def check_fit(folder: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises LtsRayError, naming the first difference, unless the tensors are those of `model`, which may be empty."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise LtsRayError(
                f"checkpoint {folder} does not fit its configuration: {name} should be "
                f"{expected.get(name, 'absent')} but is {found.get(name, 'absent')}"
            )


def digest_of(folder: Path, config: Mapping[str, Any]) -> str:
    """SHA-256 of the weights' file and of `config`: what determines the model's function."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    with (folder / WEIGHTS).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
