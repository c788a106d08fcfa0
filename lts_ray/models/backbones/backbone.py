"""What all searched backbones share: a candidate is built into one, measured or trained, and dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.tied_logits import AdaptiveSoftmax, TiedLogits


class Backbone(nn.Module, ABC):
    """A decoder with one number of heads and one FFN width per layer.

    context_length: the most tokens that a row may hold; None: no limit.
    The parameters of a module named in `embedding_parts` count as embedding, those of `head` as head, the rest as
    decoder.
    """

    embedding_parts: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(
        self,
        architecture: Architecture,
        *,
        vocab_size: int,
        context_length: int | None,
        embedding: AdaptiveEmbedding,
        head: TiedLogits | AdaptiveSoftmax,
    ) -> None:
        super().__init__()
        check_heads(architecture.d_model, architecture.n_head)
        if architecture.encoder is not None:
            raise LtsRayError(f"{type(self).__name__} has one stack of layers; leave out the architecture's encoder")
        self.architecture = architecture
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.embedding = embedding
        self.head = head

    @abstractmethod
    def hidden(self, tokens: Tensor, cache: BackboneCache | None) -> Tensor:
        """What the last layer makes of tokens [B, T]: [B, T, d_model]. Appends to the cache, as `forward` says."""

    def forward(self, tokens: Tensor, *, cache: BackboneCache | None = None, last_only: bool = False) -> Tensor:
        """Scores of the next token: logits, or log-probabilities where the head is an adaptive softmax.

        Both are valid scores for cross-entropy and argmax.
        tokens: [B, T], int64. cache: B rows; tokens go behind what each row holds, and its lengths advance by T.
        Returns [B, T, vocab_size], or [B, 1, vocab_size] with `last_only`.
        Raises LtsRayError when a row would pass the context length or the cache.
        """
        x = self.hidden(tokens, cache)
        if last_only:
            x = x[:, -1:]
        scores: Tensor = self.head(x, self.embedding)
        return scores

    def loss(self, tokens: Tensor, targets: Tensor, *, cache: BackboneCache | None = None) -> Tensor:
        """Mean nats of targets [B, T] after tokens [B, T]: cross-entropy over `forward`, often without all of it.

        Under gradients only a Transformer-XL takes a cache, the memory that its segments are trained with.
        """
        return self.head.loss(self.hidden(tokens, cache), targets, self.embedding)

    def empty_cache(self, *, rows: int, length: int) -> BackboneCache:
        """Memory for `rows` rows of `length` tokens, in the parameters' type and on their device."""
        like = self.embedding.table(0).new_empty(self.architecture.d_model)
        return BackboneCache.empty(self.architecture.n_layer, rows=rows, length=length, like=like)

    def initialize(self, generator: torch.Generator) -> None:
        """Fresh weights: normal, with a spread that `initial_std` names; biases 0, norms 1."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=self.initial_std(name), generator=generator)

    def initial_std(self, name: str) -> float:
        """Of the parameter `name`; the embedding's and the head's projections as Transformer-XL has them."""
        return 0.01 if "projection" in name else 0.02

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters in the embedding, the decoder and the head; a tied matrix counts once, as embedding."""
        embedding = sum(count(self.get_submodule(name)) for name in self.embedding_parts)
        head = count(self.head)
        return {"embedding": embedding, "decoder": count(self) - embedding - head, "head": head}


def check_heads(d_model: int, n_head: Sequence[int], what: str = "layer") -> None:
    """Raises LtsRayError where a layer's heads do not divide d_model. what: names a layer in the message."""
    for layer, heads in enumerate(n_head):
        if d_model % heads:
            raise LtsRayError(
                f"d_model must be a multiple of every n_head; {what} {layer} has {heads} heads for d_model {d_model}"
            )


def check_plain_embedding(architecture: Architecture, model: str) -> None:
    """Raises LtsRayError for an embedding that is not as wide as the model, or narrower for rarer words."""
    if architecture.d_embed != architecture.d_model or architecture.div_val != 1:
        raise LtsRayError(
            f"{model} needs d_embed = d_model and div_val 1; got {architecture.d_embed}, {architecture.d_model} "
            f"and {architecture.div_val}"
        )


def count(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
