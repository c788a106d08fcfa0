"""A training run's state at one step, from which it goes on to the same losses: weights, moments and the step.

Batches and learning rates are functions of the step, so nothing else needs to be kept. A snapshot is a folder that
appears whole, by rename; the two newest are kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lts_ray.errors import LtsRayError
from lts_ray.files import writing
from lts_ray.models.checkpoint_folder import save_tensors

KEEP = 2


def save_snapshot(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Write the state after `step` steps."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": parameter.detach() for parameter, name in names.items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{names[parameter]}.{key}"] = value
    path = _place(folder, step)
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(path):
            temporary.mkdir(parents=True)
            save_tensors(tensors, temporary / "state.safetensors")
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
    except LtsRayError:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk has room again for what else is to be written
        raise
    for old in snapshots(folder)[:-KEEP]:
        shutil.rmtree(old)


def drop_snapshot(folder: Path, step: int) -> None:
    """Where there is one."""
    shutil.rmtree(_place(folder, step), ignore_errors=True)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def snapshots(folder: Path) -> list[Path]:
    """Finished snapshots, oldest first."""
    return sorted(folder.glob("step-*"))


def load_snapshot(path: Path, model: nn.Module, optimizer: torch.optim.AdamW) -> int:
    """Set model and optimizer to the snapshot's state, on the model's device. Returns the number of steps done."""
    try:
        tensors = load_file(path / "state.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                prefix = f"optimizer.{name}."
                state = {
                    key.removeprefix(prefix): value.to(parameter.device)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                if state:
                    optimizer.state[parameter] = state
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise LtsRayError(f"snapshot {path} is unusable ({error}): delete it to resume from the one before") from None
    return int(path.name.removeprefix("step-"))
