"""Toy language models small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lts_ray.checkpoints.extracted import extract
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.proxies.live_model import LiveModel
from lts_ray.submodel import Submodel


class Chain(nn.Module):
    """Embedding, then linear layers with an activation after each, then a head."""

    def __init__(
        self, *widths: int, vocab_size: int = 3, activation: Callable[[Tensor], Tensor] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(vocab_size, widths[0])
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], vocab_size, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.activation = activation
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def hidden(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.dropout(self.embedding(tokens))
        for layer in self.layers:
            x = layer(x) if self.activation is None else self.activation(layer(x))
        return x

    def forward(self, tokens: Tensor, *, last_only: bool = False) -> Tensor:
        x = self.hidden(tokens)
        scores: Tensor = self.head(x[:, -1:] if last_only else x)
        return scores


def live_model_of(model: nn.Module) -> LiveModel:
    return LiveModel(
        module=model,
        embedding="embedding",
        positions=None,
        outside=("embedding", "head"),
        hidden=lambda module, tokens: module.hidden(tokens),
    )


def live_submodel(universal: MatFormer, submodel: Submodel) -> LiveModel:
    """A submodel as a model of its own: proxies then see its weights and no others."""
    config = universal.config
    return LiveModel(
        module=Alone(extract(universal, submodel)),
        embedding="model.embed_tokens",
        positions="model.embed_positions" if config.family.positions == "learned" else None,
        outside=("model.embed_tokens", *(() if config.tied else ("model.lm_head",))),
        hidden=_submodel_hidden,
    )


class Alone(nn.Module):
    """An extracted submodel, called without naming the submodel."""

    def __init__(self, model: MatFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *, last_only: bool = False) -> Tensor:
        scores: Tensor = self.model(tokens, submodel=self.model.config.universal, last_only=last_only)
        return scores


def _submodel_hidden(alone: Alone, tokens: Tensor) -> Tensor:
    """What comes out of the last norm; the head is no module here."""
    outputs: list[Tensor] = []
    handle = alone.model.norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        alone(tokens, last_only=False)
    finally:
        handle.remove()
    return outputs[0]
