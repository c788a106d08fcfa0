"""Small supernets of every backbone, of members that differ in depth, width, heads and FFNs; none is largest in all."""

from __future__ import annotations

from dataclasses import replace

import torch

from lts_ray.architecture import Architecture
from lts_ray.models.backbones.supernet import Supernet
from lts_ray.models.backbones.supernet_config import SupernetConfig

DEEP = Architecture(d_model=16, n_head=(2, 4, 1), d_inner=(40, 24, 32), d_embed=16)
WIDE = Architecture(d_model=24, n_head=(3, 2), d_inner=(32, 56), d_embed=24)
SMALL = Architecture(d_model=8, n_head=(4,), d_inner=(16,), d_embed=8)


def supernet_config(backbone: str, *, vocab_size: int = 300, div_val: int | None = None) -> SupernetConfig:
    """div_val: None takes what the backbone's search space has."""
    div_val = (1 if backbone == "opt" else 4) if div_val is None else div_val
    members = {
        name: replace(each, div_val=div_val) for name, each in {"small": SMALL, "wide": WIDE, "deep": DEEP}.items()
    }
    return SupernetConfig(backbone=backbone, members=members, vocab_size=vocab_size, context_length=32)


def make_supernet(config: SupernetConfig, *, seed: int = 0) -> Supernet:
    """Random weights so large that members disagree, biases too."""
    model = Supernet(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model
