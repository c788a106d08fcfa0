"""The shape of a Gemma 3n decoder. The defaults are those of the published E4B, as transformers has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import CacheShape, DecoderConfig
from lts_ray.models.elastic_config import check_granularities
from lts_ray.submodel import Submodel

LayerType = Literal["sliding_attention", "full_attention"]

HALF: Mapping[str, float] = {"S": 0.5, "XL": 1.0}
"""What is published of the nesting: a layer has all of its neurons or half of them."""

E4B_WIDTHS = (16_384,) * 35
E2B_LEAVES_OUT = range(20, 25)
E2B = Submodel(tuple(0 if layer in E2B_LEAVES_OUT else width // 2 for layer, width in enumerate(E4B_WIDTHS)))
"""The published E2B in the published E4B."""


@dataclass(frozen=True, kw_only=True)
class Gemma3nConfig(DecoderConfig):
    """A decoder that carries `n_stream` versions of a token's state from layer to layer, of which one is computed."""

    vocab_size: int = 262_400
    d_model: int = 2048
    n_head: int = 8
    n_kv_head: int = 2
    d_head: int = 256
    widths: tuple[int, ...] = E4B_WIDTHS
    """Full FFN width of each layer."""
    layer_types: tuple[LayerType, ...] = ()
    """What each layer's attention sees: a window, or all."""
    n_shared: int = 15
    """So many of the last layers have no keys of their own: they look at those of the last layer before them that is of
    their type."""
    sparsity: tuple[float, ...] = ()
    """Of each layer, the share of its gates that is cut off; 0: none."""
    context_length: int = 32_768
    window: int = 512
    rope_theta: float = 1_000_000.0
    """Of full attention."""
    local_rope_theta: float = 10_000.0
    """Of sliding attention."""
    rms_norm_eps: float = 1e-6
    logit_cap: float | None = 30.0
    """The largest logit; None: no bound."""
    n_stream: int = 4
    active_stream: int = 0
    coefficient_limit: float | None = 120.0
    """Of AltUp's coefficients, in training."""
    scales_output: bool = True
    """Whether AltUp scales what it corrected."""
    d_laurel: int = 64
    """The rank of LAuReL."""
    d_per_layer: int = 256
    """Of the embeddings that each layer has of its own."""
    per_layer_vocab_size: int = 262_144
    """Of these; later tokens use entry 0."""
    granularities: Mapping[str, float] = field(default_factory=dict)
    """A name that `named` has too is that submodel, whose share of all neurons is the fraction."""
    named: Mapping[str, Submodel] = field(default_factory=dict)
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1

    def __post_init__(self) -> None:
        """Empty layer_types, sparsity and granularities become what transformers, or the published models, have."""
        n_layer = len(self.widths)
        if not self.layer_types:
            types = tuple("sliding_attention" if (layer + 1) % 5 else "full_attention" for layer in range(n_layer))
            object.__setattr__(self, "layer_types", types)
        if not self.sparsity:
            sparse = 10 if n_layer > 10 else 0
            object.__setattr__(self, "sparsity", (0.95,) * sparse + (0.0,) * (n_layer - sparse))
        if not self.granularities:
            is_e4b = self.widths == E4B_WIDTHS and self.n_shared == 15
            object.__setattr__(self, "named", {"E2B": E2B} if is_e4b else {})
            nested = {"E2B": self.relative_size(E2B), **HALF} if is_e4b else dict(HALF)
            object.__setattr__(self, "granularities", nested)
        self._check_shape()
        check_granularities(self.granularities)
        for submodel in self.named.values():
            self.check(submodel)

    def _check_shape(self) -> None:
        sizes = ("vocab_size", "d_model", "n_head", "n_kv_head", "context_length", "window", "n_stream", "d_laurel")
        for name in (*sizes, "d_per_layer", "per_layer_vocab_size"):
            if getattr(self, name) < 1:
                raise LtsRayError(f"{name} must be at least 1; got {getattr(self, name)}")
        Submodel(self.widths)
        if not all(self.widths):
            raise LtsRayError(f"every layer has neurons; got widths {list(self.widths)}")
        if self.d_head < 2 or self.d_head % 2:
            raise LtsRayError(f"a head needs an even number of at least 2 dimensions to rotate; got {self.d_head}")
        if self.n_head % self.n_kv_head:
            raise LtsRayError(f"n_head must be a multiple of n_kv_head; got {self.n_head} and {self.n_kv_head}")
        if not 0 <= self.active_stream < self.n_stream:
            raise LtsRayError(f"active_stream is one of {self.n_stream} streams, from 0; got {self.active_stream}")
        for name, values in (("layer_types", self.layer_types), ("sparsity", self.sparsity)):
            if len(values) != self.n_layer:
                raise LtsRayError(f"{name} needs one value per layer, {self.n_layer}; got {len(values)}")
        if unknown := set(self.layer_types) - set(get_args(LayerType)):
            raise LtsRayError(f"layer_types are {', '.join(get_args(LayerType))}; got {sorted(unknown)}")
        if not all(0 <= share < 1 for share in self.sparsity):
            raise LtsRayError(f"a layer's sparsity is at least 0 and below 1; got {list(self.sparsity)}")
        if not 0 <= self.n_shared < self.n_layer:
            raise LtsRayError(f"of {self.n_layer} layers, 0 to {self.n_layer - 1} can share keys; got {self.n_shared}")
        own = set(self.layer_types[: self.first_shared])
        if missing := set(self.layer_types[self.first_shared :]) - own:
            raise LtsRayError(
                f"no layer has keys for the {', '.join(sorted(missing))} layers from {self.first_shared} on"
            )

    @property
    def first_shared(self) -> int:
        """The first of the layers without keys of their own; the number of layers where there are none."""
        return self.n_layer - self.n_shared

    @cached_property
    def donors(self) -> Mapping[LayerType, int]:
        """The layer whose keys the later ones of its type look at; empty where all have their own."""
        own = self.layer_types[: self.first_shared]
        return {kind: layer for layer, kind in enumerate(own)} if self.n_shared else {}

    @property
    def key_donors(self) -> Collection[int]:
        return self.donors.values()

    def key_layer(self, layer: int) -> int:
        """Whose keys the layer looks at."""
        return layer if layer < self.first_shared else self.donors[self.layer_types[layer]]

    def may_skip(self, layer: int) -> str | None:
        if layer not in self.key_donors:
            return None
        return (
            f"layer {layer} cannot be skipped: it is the last {self.layer_types[layer]} layer with keys of its own, "
            f"and the layers from {self.first_shared} on look at them"
        )

    def granularity(self, name: str) -> Submodel:
        return self.named[name] if name in self.named else super().granularity(name)

    @property
    def cache_shape(self) -> CacheShape:
        """Layers that share keys remember none."""
        return CacheShape(n_layer=self.first_shared, n_kv_head=self.n_kv_head, d_head=self.d_head)

    def decoder_params(self, submodel: Submodel | None = None) -> int:
        """As of the base class: with what mixes the streams, and with each kept layer's share of the projection."""
        chosen = self.universal if submodel is None else self.check(submodel)
        kept = [layer for layer, width in enumerate(chosen.widths) if width]
        own = sum(layer < self.first_shared for layer in kept)
        d_model, n_stream = self.d_model, self.n_stream
        attention = 2 * d_model * self.n_head * self.d_head + self.d_head
        altup = d_model + n_stream**2 + n_stream**3 + n_stream * d_model + d_model
        laurel = 2 * d_model * self.d_laurel + d_model
        layer = attention + altup + laurel + 2 * d_model * self.d_per_layer + 5 * d_model
        layer += d_model * self.d_per_layer  # of per_layer_model_projection
        return (
            len(kept) * layer
            + own * self.key_params
            + 3 * d_model * sum(chosen.widths)
            + 2 * (n_stream - 1) * d_model**2
            + self.d_per_layer
            + d_model
        )

    @property
    def key_params(self) -> int:
        """Of one layer's keys and values."""
        return 2 * self.d_model * self.n_kv_head * self.d_head + self.d_head

    @property
    def embedding_params(self) -> int:
        return self.table_params(self.universal)

    def parameters(self, submodel: Submodel) -> int:
        return self.table_params(submodel) + self.decoder_params(submodel)

    def table_params(self, submodel: Submodel) -> int:
        """Of the embedding, and of the kept layers' own."""
        kept = sum(width > 0 for width in submodel.widths)
        return self.vocab_size * self.d_model + self.per_layer_vocab_size * kept * self.d_per_layer
