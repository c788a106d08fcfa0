"""The shape of a universal model, and how much of each axis its granularities have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import CacheShape, DecoderConfig
from lts_ray.models.elastic_config import GRANULARITIES, check_granularities, check_shares
from lts_ray.models.family import LLAMA, Family
from lts_ray.models.rope_scaling import RopeScaling
from lts_ray.precision import PRECISIONS
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class MatFormerConfig(DecoderConfig):
    """A decoder of one family whose FFN blocks nest, and its attention heads and d_model where they are to."""

    vocab_size: int
    d_model: int
    n_head: int
    n_kv_head: int
    widths: tuple[int, ...]
    """Full FFN width of each layer, in neurons: one for all layers, except in an extracted Mix'n'Match submodel."""
    context_length: int
    """The most tokens that a row may hold, prompt and response together."""
    rope_theta: float = 10_000.0
    """Read where the family's positions are rotary, as rope_scaling."""
    rope_scaling: RopeScaling | None = None
    """None: the rotations are as `rope_theta` has them."""
    rms_norm_eps: float = 1e-5
    """Of the norms, of either kind."""
    granularities: Mapping[str, float] = field(default_factory=lambda: dict(GRANULARITIES))
    family: Family = LLAMA
    head_dim: int | None = None
    """Of each head; None: d_model / n_head."""
    tied: bool = True
    """Whether the output matrix is the embedding."""
    bos_token_id: int | None = 0
    """Noted, as eos_token_id, for the files that transformers reads; the model itself has no use for it."""
    eos_token_id: int | tuple[int, ...] | None = 0
    nested_heads: Mapping[str, float] | None = None
    """The share of heads that each granularity has; without a number, all. None: heads do not nest."""
    nested_d_model: Mapping[str, float] | None = None
    """Likewise of d_model."""
    heads: tuple[int, ...] = ()
    """Of each layer where they are not n_head in all: in an extracted submodel."""
    precisions: tuple[str, ...] = PRECISIONS
    """That the model may run in, the most precise first."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_head", "n_kv_head", "context_length"):
            if not 1 <= getattr(self, name) < 2**31:
                raise LtsRayError(f"{name} must be at least 1, and below 2^31; got {getattr(self, name)}")
        if not 1 < self.rope_theta < math.inf:
            raise LtsRayError(f"rope_theta must be above 1, and finite; got {self.rope_theta}")
        if not all(Submodel(self.widths, heads=self.heads).widths):
            raise LtsRayError(f"every layer needs at least one neuron; got {list(self.widths)}")
        if self.head_dim is None and self.d_model % self.n_head:
            raise LtsRayError(f"d_model / n_head must be a whole number; got {self.d_model} / {self.n_head}")
        if self.d_head < 1 or (self.family.positions == "rotary" and self.d_head % 2):
            raise LtsRayError(f"a head needs an even number of at least 2 dimensions to rotate; got {self.d_head}")
        if self.n_head % self.n_kv_head:
            raise LtsRayError(f"n_head must be a multiple of n_kv_head; got {self.n_head} and {self.n_kv_head}")
        if any(heads % self.head_step or heads > self.n_head for heads in self.heads):
            raise LtsRayError(
                f"the heads of a layer are a multiple of {self.head_step} up to {self.n_head}; got {list(self.heads)}"
            )
        if not self.precisions or list(self.precisions) != [each for each in PRECISIONS if each in self.precisions]:
            raise LtsRayError(
                f"precisions must be some of {', '.join(PRECISIONS)}, in this order; got {', '.join(self.precisions)}"
            )
        check_granularities(self.granularities)
        for axis in ("nested_heads", "nested_d_model"):
            check_shares(getattr(self, axis), self.granularities, what=axis)

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head if self.head_dim is None else self.head_dim

    @property
    def layer_heads(self) -> tuple[int, ...]:
        """All of each layer."""
        return self.heads or (self.n_head,) * self.n_layer

    @property
    def head_step(self) -> int:
        return self.n_head // self.n_kv_head

    @property
    def elastic_heads(self) -> tuple[int, ...]:
        return () if self.nested_heads is None else self.layer_heads

    @property
    def elastic_d_model(self) -> int:
        return 0 if self.nested_d_model is None else self.d_model

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(n_layer=self.n_layer, n_kv_head=self.n_kv_head, d_head=self.d_head)

    @property
    def nests_ffn_alone(self) -> bool:
        return self.nested_heads is None and self.nested_d_model is None

    def granularity(self, name: str) -> Submodel:
        heads: tuple[int, ...] = ()
        d_model = 0
        if share := (self.nested_heads or {}).get(name):
            step = self.head_step
            heads = tuple(step * max(1, round(share * full / step)) for full in self.layer_heads)
        if share := (self.nested_d_model or {}).get(name):
            d_model = max(1, round(share * self.d_model))
        return self.check(Submodel(self.fraction(self.granularities[name]).widths, heads=heads, d_model=d_model))

    def decoder_params(self, submodel: Submodel | None = None) -> int:
        chosen = self.universal if submodel is None else self.check(submodel)
        family, d_model = self.family, chosen.d_model or self.d_model
        norm = d_model if family.norm == "rms" else 2 * d_model
        inward = 2 if family.gated else 1  # projections into the FFN; one leads out of it
        per_neuron = (inward + 1) * d_model + family.ffn_bias * inward
        per_head = self.d_head * (2 * d_model + family.qkv_bias)  # the query's, and the way out
        per_kv_head = 2 * self.d_head * (d_model + family.qkv_bias)
        layer = 2 * norm + (family.out_bias + family.ffn_bias) * d_model + family.qk_norm * 2 * self.d_head
        heads = sum(chosen.heads or self.layer_heads)
        kv_heads = heads // self.head_step
        neurons = per_neuron * sum(chosen.widths)
        return self.n_layer * layer + per_head * heads + per_kv_head * kv_heads + neurons + norm

    @property
    def embedding_params(self) -> int:
        """Tables of tokens and positions, and the output matrix where it is not the embedding."""
        tables = self.vocab_size * (1 if self.tied else 2)
        return self.d_model * (tables + (self.context_length if self.family.positions == "learned" else 0))

    def parameters(self, submodel: Submodel) -> int:
        alone = self.extracted(submodel)
        return alone.embedding_params + alone.decoder_params()

    def extracted(self, submodel: Submodel) -> MatFormerConfig:
        """Of the submodel as a model of its own."""
        chosen = self.check(submodel)
        heads = chosen.heads or self.layer_heads
        same = len(set(heads)) == 1
        n_head = heads[0] if same else self.n_head
        return replace(
            self,
            widths=chosen.widths,
            heads=() if same else heads,
            n_head=n_head,
            n_kv_head=n_head // self.head_step,
            d_model=chosen.d_model or self.d_model,
            head_dim=self.head_dim if n_head == self.n_head and not chosen.d_model else self.d_head,
            granularities={"XL": 1.0},
            nested_heads=None,
            nested_d_model=None,
        )

    def relative_size(self, submodel: Submodel) -> float:
        """Of the FFN neurons; where more nests, of the parameters that `decoder_params` counts."""
        if self.nests_ffn_alone:
            return super().relative_size(submodel)
        return self.decoder_params(submodel) / self.decoder_params()

    def equivalent_neurons(self, submodel: Submodel) -> int:
        """Where more than the FFN nests, as many as would have all of the submodel's parameters."""
        if self.nests_ffn_alone:
            return super().equivalent_neurons(submodel)
        return max(1, round(self.decoder_params(submodel) / ((3 if self.family.gated else 2) * self.d_model)))
