"""Which parameters learn."""

from __future__ import annotations

from typing import Literal

from torch import nn

Trained = Literal["all", "ffn"]


def freeze(model: nn.Module, trained: Trained) -> None:
    """In place: with `ffn`, only the parameters of the nested blocks, the modules named `mlp`, get gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "all" or "mlp" in name.split("."))
