"""What every universal model is, whatever its blocks: any submodel runs from one set of weights.

The submodel to run is an argument, never state of a module: two requests of different width share a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lts_ray.errors import LtsRayError
from lts_ray.models.attend import Attend, CachedTokens, OwnTokens
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.extent import Extent
from lts_ray.models.kv_cache import KVCache
from lts_ray.submodel import Submodel


class UniversalModel(nn.Module, ABC):
    """A decoder. `run` and `logits` are the model's own."""

    config: DecoderConfig

    @abstractmethod
    def run(self, tokens: Tensor, positions: Tensor, extent: Extent, attend: Attend) -> Tensor:
        """The last layer's output, normalised: [B, T, d_model], or as narrow as the widest row.

        tokens, positions: [B, T], int64; a token's place in its sequence. extent: of B rows.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d_model], or narrower, to [..., vocab_size]."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """Any of the weights: they share one device and dtype."""

    def empty_cache(self, *, rows: int = 1, length: int) -> KVCache:
        """For so many tokens a row, beside the weights."""
        weight = self.weight
        return KVCache.empty(self.config, rows=rows, length=length, dtype=weight.dtype, device=weight.device)

    def forward(
        self,
        tokens: Tensor,
        *,
        submodel: Submodel | Sequence[Submodel],
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Next-token logits.

        tokens: [B, T], int64. submodel: one for the batch or one per row; each row gets what it would get alone.
        cache: B rows; tokens go behind what each row holds, and its lengths advance by T.
        Returns [B, T, vocab_size], or [B, 1, vocab_size] with `last_only`.
        Raises LtsRayError when a row would pass the context length or the cache, or the model lacks the submodel.
        """
        hidden = self.hidden(tokens, submodel=submodel, cache=cache)
        return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(
        self, tokens: Tensor, *, submodel: Submodel | Sequence[Submodel], cache: KVCache | None = None
    ) -> Tensor:
        """What `logits` reads: [B, T, d_model], or as narrow as the widest row. Arguments as of `forward`."""
        rows, length = tokens.shape
        extent = Extent.of(submodel, rows, self.config)
        steps = torch.arange(length, device=tokens.device)
        if cache is None:
            self._check_length(length, self.config.context_length)
            return self.run(tokens, steps.expand(rows, length), extent, OwnTokens(self.config.key_donors))
        self._check_length(max(cache.lengths.tolist()) + length, min(self.config.context_length, cache.capacity))
        positions = cache.lengths.to(tokens.device)[:, None] + steps
        hidden = self.run(tokens, positions, extent, CachedTokens(cache, positions))
        cache.lengths.add_(length)
        return hidden

    @staticmethod
    def _check_length(end: int, limit: int) -> None:
        if end > limit:
            raise LtsRayError(f"{end} tokens do not fit: the context is {limit} tokens")
