"""What a decoder's configuration says beside its submodels: what decoding, measuring and serving one need to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from lts_ray.models.elastic_config import ElasticConfig
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Of a token's keys, and of its values."""

    n_layer: int
    """Layers that remember theirs."""
    n_kv_head: int
    d_head: int


class DecoderConfig(ElasticConfig, ABC):
    """The base of frozen dataclasses."""

    vocab_size: int
    d_model: int
    context_length: int
    """The most tokens a row may hold, prompt and response together."""

    @property
    @abstractmethod
    def cache_shape(self) -> CacheShape: ...

    @property
    def key_donors(self) -> Collection[int]:
        """Layers whose keys and values later layers look at, in place of their own."""
        return ()

    @abstractmethod
    def decoder_params(self, submodel: Submodel | None = None) -> int:
        """Parameters in the layers and the final norm, without the embedding: LTS's proxy for quality."""

    @property
    @abstractmethod
    def embedding_params(self) -> int:
        """All the others."""

    def parameters(self, submodel: Submodel) -> int:
        """All of them, of the submodel as a model of its own."""
        return self.embedding_params + self.decoder_params(submodel)

    def relative_size(self, submodel: Submodel) -> float:
        """The submodel's share of the universal model's FFN neurons, in (0, 1]."""
        return sum(submodel.widths) / sum(self.widths)

    def equivalent_neurons(self, submodel: Submodel) -> int:
        """The submodel's size in FFN neurons over all layers, or what is worth as much: a step's cost grows with it."""
        return sum(submodel.widths)
