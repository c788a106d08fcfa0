"""The two files of every checkpoint, whatever model it holds: config.json and model.safetensors.

Both are written atomically, the configuration last: a folder that has one is whole. What others wrote may have its
weights in shards, with an index beside them; that is read as well.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lts_ray.errors import LtsRayError
from lts_ray.files import make_folder, read_json, replacing, write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BACKBONE_MODEL_TYPES = {"lts_ray_gpt2": "gpt2", "lts_ray_transformer_xl": "transformer-xl", "lts_ray_opt": "opt"}
"""What a trained backbone's config.json says that it is, and which backbone that means."""


def write_folder(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, dtype: torch.dtype | None
) -> None:
    """dtype: what the weights are stored in; None: in what they are."""
    make_folder(folder)
    stored = {name: value.detach().to(dtype or value.dtype).contiguous() for name, value in tensors.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_tensors(stored, temporary)
    write_json(folder / CONFIG, config)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Raises OSError where the file cannot be written: a full disk is an error of its own to safetensors."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt", **metadata})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def read_raw_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LtsRayError(f"model {folder} is not a folder; give one with {CONFIG} and {WEIGHTS}")
    return read_json(folder / CONFIG, what="model configuration")


def read_ours(folder: Path, raw: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """What of config.json is ours: next to nothing where others wrote it. Raises LtsRayError for another schema."""
    ours = raw.get("lts_ray") or {"schema": schema}
    given = ours.get("schema") if isinstance(ours, dict) else None
    if not isinstance(ours, dict) or given != schema:
        raise LtsRayError(f"model {folder} has schema {given}; this version reads {schema}")
    return ours


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """While a configuration's values are taken: what a malformed one raises becomes one line that names the folder."""
    try:
        yield
    except LtsRayError as error:
        raise LtsRayError(f"model {folder} cannot be loaded: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise LtsRayError(f"model configuration {folder / CONFIG} is not usable: {error!r}") from None


def refuse_quantized(folder: Path, raw: Mapping[str, Any]) -> None:
    if raw.get("quantization_config"):
        raise LtsRayError(f"model {folder} is quantized (quantization_config); save it with plain weights first")


def read_weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            held = load_file(path)
        except FileNotFoundError:
            pickled = (folder / "pytorch_model.bin").exists()
            hint = "; save its pytorch_model.bin as safetensors first: pickles are not read" if pickled else ""
            raise LtsRayError(f"model {folder} has no {path.name}{hint}") from None
        except (OSError, SafetensorError, struct.error) as error:
            raise LtsRayError(f"weights {path} are corrupt or not safetensors: {error}") from None
        if twice := sorted(tensors.keys() & held.keys()):
            raise LtsRayError(f"model {folder} has {twice[0]} in {path.name} and in an earlier file: which one counts?")
        tensors |= held
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The one file, or the shards that the index names; in either case they may be missing."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    shards = read_json(folder / INDEX, what="index of weights").get("weight_map")
    names = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise LtsRayError(f"index of weights {folder / INDEX} does not name the files beside it in its weight_map")
    return [folder / name for name in sorted(names)]


def check_fit(folder: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises LtsRayError, naming the first difference, unless the tensors are those of `model`, which may be empty."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_same(folder, expected, {name: tuple(value.shape) for name, value in tensors.items()})


def check_same(path: Path, expected: Mapping[str, object], held: Mapping[str, object]) -> None:
    for name in sorted(expected.keys() | held.keys()):
        if expected.get(name) != held.get(name):
            raise LtsRayError(
                f"checkpoint {path} does not fit its configuration: {name} should be "
                f"{expected.get(name, 'absent')} but is {held.get(name, 'absent')}"
            )


def digest_of(folder: Path, config: Mapping[str, Any]) -> str:
    """SHA-256 of the weights' files and of `config`: what determines the model's function."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path in weight_files(folder):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
