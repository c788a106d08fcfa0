"""What the tests of this folder build: tiny random models, images, folders, and a run that can be killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.vision.images import ImageData, Images
from lts_ray.vision.vision_run import train_vit
from lts_ray.vision.vision_settings import VisionModelSettings, VisionSettings
from tests.forked import stand_still_at

CONFIG = MatViTConfig(
    image_size=(6, 4),
    patch_size=(2, 2),
    channels=3,
    d_model=16,
    n_head=4,
    widths=(32, 32, 32),
    labels=("cat", "dog", "owl"),
)


TO_BE_KILLED = {"steps": 20, "checkpoint_every": 7}
"""Of the run that this file is when it is run."""


def make_vit(**changes: Any) -> MatViT:
    """All parameters random, biases and norms too, and large enough that widths disagree."""
    model = MatViT(replace(CONFIG, **changes))
    randomize(model)
    return model.eval()


def randomize(model: nn.Module, *, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)


def make_pixels(count: int, config: MatViTConfig = CONFIG, *, seed: int = 1) -> Tensor:
    """[N, C, H, W], in [0, 1]."""
    return torch.rand(count, config.channels, *config.image_size, generator=torch.Generator().manual_seed(seed))


def make_images(count: int, *, seed: int = 1, classes: int = 3) -> Images:
    labels = torch.arange(count) % classes
    return Images(make_pixels(count, seed=seed), labels)


def make_data() -> ImageData:
    return ImageData(train=make_images(30), held_out=make_images(20, seed=2))


def fingerprint(folder: Path) -> tuple[MatViTConfig, dict[str, list[float]]]:
    """What determines a checkpoint's function, not what training noted beside it."""
    model = load_vit(folder).model
    return model.config, {name: tensor.flatten().tolist() for name, tensor in model.state_dict().items()}


def write_npz(path: Path, count: int = 40, *, seed: int = 0) -> None:
    """Images of CONFIG's size whose class is how bright they are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    noise = rng.integers(0, 40, size=(count, 6, 4, 3))
    np.savez(path, images=(labels[:, None, None, None] * 100 + noise // 2).astype(np.uint8), labels=labels)


def tiny_settings(images: Path | str, **training: Any) -> VisionSettings:
    base = VisionSettings()
    options = {"steps": 12, "batch_size": 8, "warmup_steps": 2, "log_every": 1, "checkpoint_every": 3, "threads": 1}
    return replace(
        base,
        images=replace(base.images, source=str(images)),
        model=VisionModelSettings(d_model=16, n_head=2, n_layer=2, d_ff=32, patch_size=2),
        training=replace(base.training, **(options | {"evaluate_every": 5} | training)),
    )


def run_to_be_killed(images: Path, output: Path) -> None:
    """Nine steps, of which the seventh is the last snapshot's."""
    torch.set_num_threads(1)
    stand_still_at(9)
    train_vit(tiny_settings(images, **TO_BE_KILLED), output)
