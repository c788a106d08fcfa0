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

from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveModel:
    """module: `module(tokens)` gives scores of the next token, [B, T, V], from tokens [B, T].

    embedding: the name of the module whose output is the decoder's input. positions: that of learned positions, None
    without. outside: names of modules that are not decoder. hidden: (module, tokens) to the decoder's output,
    [B, T, D], without the head.
    """

    module: nn.Module
    embedding: str
    positions: str | None
    outside: Sequence[str]
    hidden: Callable[[Any, Tensor], Tensor]

    def copy(self, dtype: torch.dtype | None = None) -> nn.Module:
        """A copy of the module in evaluation mode, all of whose parameters take gradients."""
        return copy.deepcopy(self.module).eval().to(dtype=dtype).requires_grad_(True)

    def weights(self, module: nn.Module) -> list[nn.Parameter]:
        """The matrices of the decoder's linear layers in `module`, which is this subject's or a copy of it.

        As in Abdelfattah et al., neither biases nor norms; as in LTS, no embedding and no head.
        """
        found = []
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and not any(f"{name}.".startswith(f"{each}.") for each in self.outside):
                assert isinstance(layer.weight, nn.Parameter)
                found.append(layer.weight)
        if not found:
            raise LtsRayError("the model has no linear layer outside its embedding and head; a proxy needs one")
        return found

    def loss(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """Mean nats of every token [B, T] after those before it."""
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise LtsRayError(f"a proxy needs tokens [B, T] with T of 2 or more; got {list(tokens.shape)}")
        scores: Tensor = module(tokens)[:, :-1]
        return functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())


def backbone_subject(model: Backbone) -> LiveModel:
    return LiveModel(
        module=model,
        embedding="embedding",
        positions="positions" if hasattr(model, "positions") else None,
        outside=(*model.embedding_parts, "head"),
        hidden=_backbone_hidden,
    )


def submodel_subject(universal: MatFormer, submodel: Submodel) -> LiveModel:
    """A submodel as a model of its own: proxies then see its weights and no others."""
    config = universal.config
    return LiveModel(
        module=_Alone(extract(universal, submodel)),
        embedding="model.embed_tokens",
        positions="model.embed_positions" if config.family.positions == "learned" else None,
        outside=("model.embed_tokens", *(() if config.tied else ("model.lm_head",))),
        hidden=_submodel_hidden,
    )


class _Alone(nn.Module):
    """An extracted submodel, called without naming the submodel."""

    def __init__(self, model: MatFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *, last_only: bool = False) -> Tensor:
        scores: Tensor = self.model(tokens, submodel=self.model.config.universal, last_only=last_only)
        return scores


def _backbone_hidden(model: Backbone, tokens: Tensor) -> Tensor:
    return model.hidden(tokens, None)


def _submodel_hidden(alone: _Alone, tokens: Tensor) -> Tensor:
    """What comes out of the last norm; the head is no module here."""
    outputs: list[Tensor] = []
    handle = alone.model.norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        alone(tokens, last_only=False)
    finally:
        handle.remove()
    return outputs[0]
