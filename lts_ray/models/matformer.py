"""The universal model: a decoder whose FFN blocks nest: any width per layer runs from one set of weights.

The width to run is an argument of `forward`, never state of a module: two requests of different width share a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lts_ray.architecture import Submodel
from lts_ray.decoding.kv_cache import KVCache
from lts_ray.errors import LtsRayError
from lts_ray.models.attention import Attention, rotary_table
from lts_ray.models.config import MatFormerConfig
from lts_ray.models.feed_forward import FeedForward, Widths
from lts_ray.models.few_rows import linear
from lts_ray.models.staircase import fan


def norm_of(config: MatFormerConfig) -> nn.Module:
    norm = nn.RMSNorm if config.family.norm == "rms" else nn.LayerNorm
    return norm(config.d_model, eps=config.rms_norm_eps)


class Block(nn.Module):
    def __init__(self, config: MatFormerConfig, width: int) -> None:
        super().__init__()
        self.input_layernorm = norm_of(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = norm_of(config)
        self.mlp = FeedForward(config.d_model, width, config.family)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        *,
        widths: Widths,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        return self.transform(self.attend(x, rotary, mask=mask, cache=cache, layer=layer), widths)

    def attend(
        self, x: Tensor, rotary: Tensor | None, *, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        attended: Tensor = self.self_attn(self.input_layernorm(x), rotary, mask=mask, cache=cache, layer=layer)
        return x + attended

    def transform(self, x: Tensor, widths: Widths) -> Tensor:
        transformed: Tensor = self.mlp(self.post_attention_layernorm(x), widths)
        return x + transformed


class MatFormer(nn.Module):
    """The universal model. Parameter names are those of transformers' Llama, whatever the family."""

    rotary: Tensor

    def __init__(self, config: MatFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, width) for width in config.widths)
        self.norm = norm_of(config)
        self.tied, self.learned = config.tied, config.family.positions == "learned"
        if self.learned:
            self.embed_positions = nn.Embedding(config.context_length, config.d_model)
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(config), persistent=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Fresh weights: normal, with the layers' output projections scaled down by depth."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                std = 0.02
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= (2 * self.config.n_layer) ** 0.5
                nn.init.normal_(parameter, std=std, generator=generator)

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
        """What `logits` reads: the last layer's output, normalised: [B, T, d_model]. Arguments as of `forward`."""
        rows, length = tokens.shape
        widths = self._layer_widths(submodel, rows)
        positions, mask = self._positions(rows, length, cache, tokens.device)
        x, rotary = self._start(tokens, positions)
        for index, block in enumerate(self.layers):
            x = block(x, rotary, widths=widths[index], mask=mask, cache=cache, layer=index)
        if cache is not None:
            cache.lengths.add_(length)
        normalised: Tensor = self.norm(x)
        return normalised

    def fan_out(self, tokens: Tensor, submodels: Sequence[Submodel]) -> Tensor:
        """`hidden` of the same tokens [B, T] under each of G submodels: [G·B, T, d_model], submodel by submodel.

        Every submodel computes the same up to the first FFN's output: up to there all of them cost what one does.
        """
        rows, length = tokens.shape
        widths = self._layer_widths([each for each in submodels for _ in range(rows)], len(submodels) * rows)
        positions, _ = self._positions(rows, length, None, tokens.device)
        x, rotary = self._start(tokens, positions[:1])  # without a cache all rows agree
        for index, block in enumerate(self.layers):
            assert isinstance(block, Block)
            x = block.attend(x, rotary, mask=None, cache=None, layer=index)
            if index == 0:
                y = fan(block.post_attention_layernorm(x), [each.widths[0] for each in submodels], block.mlp)
                x = x.repeat(len(submodels), 1, 1) + y
            else:
                x = block.transform(x, widths[index])
        normalised: Tensor = self.norm(x)
        return normalised

    @property
    def output_weight(self) -> Tensor:
        """The matrix of `logits`: [vocab_size, d_model]. It is the embedding's where the two are tied."""
        return self.embed_tokens.weight if self.tied else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d_model] to [..., vocab_size]."""
        return linear(hidden, self.output_weight)

    def _start(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the first layer gets: [B, T, d_model], and the angles [2, B, 1, T, d_head] where positions rotate.

        tokens: [B, T]; positions: [B, T], or [1, T] for all rows.
        """
        x: Tensor = self.embed_tokens(tokens)
        if self.learned:
            return x + self.embed_positions(positions), None
        return x, self.rotary[:, positions].unsqueeze(2)

    def _layer_widths(self, submodel: Submodel | Sequence[Submodel], rows: int) -> list[Widths]:
        """For each layer, one width for all rows where they agree, else one per row."""
        if isinstance(submodel, Submodel):
            return list(self.config.check(submodel).widths)
        if len(submodel) != rows:
            raise LtsRayError(f"{len(submodel)} submodels for {rows} rows: give one, or one per row")
        for each in set(submodel):
            self.config.check(each)
        columns = zip(*(each.widths for each in submodel), strict=True)
        return [column[0] if len(set(column)) == 1 else column for column in columns]

    def _positions(
        self, rows: int, length: int, cache: KVCache | None, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Positions [B, T] of the tokens, and the mask [B, 1, T, S] of what they may see.

        None: each sees what is up to its own place, which needs no mask without a past, or for one token a row where
        all rows are as long.
        """
        limit = self.config.context_length
        steps = torch.arange(length, device=device)
        if cache is None:
            end, positions, mask = length, steps.expand(rows, length), None
        else:
            starts = cache.lengths.tolist()
            end = max(starts) + length
            limit = min(limit, cache.capacity)
            positions = cache.lengths.to(device)[:, None] + steps
            mask = None
            if end > length and (length > 1 or min(starts) < max(starts)):
                mask = (torch.arange(end, device=device) <= positions[..., None])[:, None]
        if end > limit:
            raise LtsRayError(f"{end} tokens do not fit: the context is {limit} tokens")
        return positions, mask
