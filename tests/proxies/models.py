"""Toy language models small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lts_ray.proxies.live_model import LiveModel


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


def subject_of(model: nn.Module) -> LiveModel:
    return LiveModel(
        module=model,
        embedding="embedding",
        positions=None,
        outside=("embedding", "head"),
        hidden=lambda module, tokens: module.hidden(tokens),
    )
