"""A live language model as the zero-cost proxies look at it: which part is the decoder, and what goes in and out.

A proxy never runs the model itself but a copy that is its own: gradients, modes, hooks and weights of the original
stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveModel:
    module: nn.Module
    """`module(tokens)` gives scores of the next token, [B, T, V], from tokens [B, T]."""
    embedding: str
    """The name of the module whose output is the decoder's input."""
    positions: str | None
    """That of learned positions; None: there are none."""
    outside: Sequence[str]
    """Names of modules that are not decoder."""
    hidden: Callable[[Any, Tensor], Tensor]
    """The decoder's output, [B, T, D], without the head, of the module and tokens."""

    def copy(self, dtype: torch.dtype | None = None) -> nn.Module:
        """A copy of the module in evaluation mode, all of whose parameters take gradients."""
        return copy.deepcopy(self.module).eval().to(dtype=dtype).requires_grad_(True)

    def weights(self, module: nn.Module) -> list[nn.Parameter]:
        """The matrices of the decoder's linear layers in `module`, which is this model's or a copy of it.

        As in Abdelfattah et al., neither biases nor norms; as in LTS, no embedding and no head.
        """
        weights = []
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and not any(f"{name}.".startswith(f"{part}.") for part in self.outside):
                assert isinstance(layer.weight, nn.Parameter)
                weights.append(layer.weight)
        if not weights:
            raise LtsRayError("the model has no linear layer outside its embedding and head; a proxy needs one")
        return weights

    def loss(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """Mean nats of every token [B, T] after those before it."""
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise LtsRayError(f"a proxy needs tokens [B, T] with T of 2 or more; got {list(tokens.shape)}")
        scores: Tensor = module(tokens)[:, :-1]
        return functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())


def live_backbone(model: Backbone) -> LiveModel:
    return LiveModel(
        module=model,
        embedding="embedding",
        positions="positions" if hasattr(model, "positions") else None,
        outside=(*model.embedding_parts, "head"),
        hidden=lambda module, tokens: module.hidden(tokens, None),
    )
