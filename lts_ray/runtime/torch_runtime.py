"""A runtime of plain torch: any family of models, any device and dtype that torch has. It reuses the model's modules.

All rows of a step go through the matrices together, so that each weight is read once; rows of different width share the
FFN by its staircase. Only attention goes sequence by sequence where a piece of a prompt runs; single rows go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.attention import Attention, rotate
from lts_ray.models.feed_forward import Widths
from lts_ray.models.few_rows import linear
from lts_ray.models.matformer import Block, MatFormer
from lts_ray.runtime.base import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences whose attention is one call: the single rows together, or one piece of a prompt.

    start: its first row of the step. tables: [B, blocks], padded. mask: [B, 1, T, places], true where a row may look.
    unseen: [B, 1, places, 1], true where none of its sequence's rows may.
    """

    start: int
    tables: Tensor
    mask: Tensor
    unseen: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.tables), self.mask.shape[2]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a step's N rows are. blocks, offsets: [N], each row's place in the cache."""

    blocks: Tensor
    offsets: Tensor
    groups: Sequence[_Group]


class TorchRuntime:
    """The `Runtime` of base.py. Rows are what they would be alone up to rounding, which depends on their number."""

    def __init__(self, model: MatFormer, *, n_blocks: int, threads: int | None = None) -> None:
        """threads: torch's, in whichever thread `run` is called; None leaves them alone."""
        config, weight = model.config, model.embed_tokens.weight
        self.config, self.n_blocks = config, n_blocks
        self._model, self._threads, self._device = model, threads, weight.device
        shape = (config.n_layer, n_blocks, config.n_kv_head, BLOCK_TOKENS, config.d_head)
        self._keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self._values = torch.zeros_like(self._keys)

    @torch.inference_mode()
    def run(self, segments: Sequence[Segment]) -> Tensor:
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # per thread: what another one set does not count here
        self._check(segments)
        # Single rows first; among equals the widest first, as the staircase wants them.
        order = sorted(
            range(len(segments)),
            key=lambda each: (len(segments[each].tokens) > 1, -sum(segments[each].submodel.widths)),
        )
        hidden = self._hidden([segments[each] for each in order])
        stops, stop = {}, 0
        for each in order:
            stop += len(segments[each].tokens)
            stops[each] = stop
        last = [stops[each] - 1 for each, segment in enumerate(segments) if segment.wants_logits]
        return self._model.logits(hidden[last]).float().cpu()  # [segments that want them, vocab_size]

    def _check(self, segments: Sequence[Segment]) -> None:
        limit = self.config.context_length
        for segment in segments:
            if segment.stop > limit:
                raise LtsRayError(f"{segment.stop} tokens do not fit: the context is {limit} tokens")
        for submodel in {segment.submodel for segment in segments}:
            self.config.check(submodel)

    def _hidden(self, segments: Sequence[Segment]) -> Tensor:
        """Returns [N, d_model], a row for each token."""
        layout = self._layout(segments)
        model = self._model
        tokens = self._indices([token for segment in segments for token in segment.tokens])
        positions = self._indices([place for segment in segments for place in range(segment.start, segment.stop)])
        x = model.embed_tokens(tokens)  # [N, d_model]
        rotary = None
        if model.learned:
            x = x + model.embed_positions(positions)
        else:
            rotary = model.rotary[:, positions, None]  # [2, N, 1, d_head]
        for layer, block in enumerate(model.layers):
            assert isinstance(block, Block)
            x = x + self._attend(block.self_attn, block.input_layernorm(x), rotary, layout, layer)
            widths = _widths(segments, layer)
            x = x + block.mlp(block.post_attention_layernorm(x)[:, None], widths)[:, 0]
        normalised: Tensor = model.norm(x)
        return normalised

    def _attend(self, attention: Attention, x: Tensor, rotary: Tensor | None, layout: _Layout, layer: int) -> Tensor:
        """x: [N, d_model]; rotary: [2, N, 1, d_head]. Returns x's shape."""
        q, k, v = (
            linear(x, projection.weight, projection.bias).view(len(x), -1, attention.d_head)  # [N, heads, d_head]
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if attention.qk_norm:
            q, k = attention.q_norm(q), attention.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary).to(v.dtype), rotate(k, rotary).to(v.dtype)
        keys, values = self._keys[layer], self._values[layer]
        keys[layout.blocks, :, layout.offsets] = k
        values[layout.blocks, :, layout.offsets] = v
        seen = torch.empty_like(q)
        for group in layout.groups:
            rows, length = group.shape
            own = slice(group.start, group.start + rows * length)
            y = functional.scaled_dot_product_attention(
                q[own].view(rows, length, *q.shape[1:]).transpose(1, 2),  # [B, n_head, T, d_head]
                _gathered(keys, group),
                _gathered(values, group),
                attn_mask=group.mask,
                enable_gqa=True,
            )
            seen[own] = y.transpose(1, 2).flatten(0, 1)
        return linear(seen.flatten(1), attention.o_proj.weight, attention.o_proj.bias)

    def _layout(self, segments: Sequence[Segment]) -> _Layout:
        places = [(segment, place) for segment in segments for place in range(segment.start, segment.stop)]
        singles = [segment for segment in segments if len(segment.tokens) == 1]
        groups = [self._group(0, singles)] if singles else []
        start = len(singles)
        for segment in segments[len(singles) :]:
            groups.append(self._group(start, [segment]))
            start += len(segment.tokens)
        return _Layout(
            self._indices([segment.blocks[place // BLOCK_TOKENS] for segment, place in places]),
            self._indices([place % BLOCK_TOKENS for _, place in places]),
            groups,
        )

    def _group(self, start: int, segments: Sequence[Segment]) -> _Group:
        """Segments of one length."""
        width = max(-(-segment.stop // BLOCK_TOKENS) for segment in segments)
        # A row never looks at its padding, which the mask hides; any block will do.
        tables = [(*segment.blocks, *[0] * width)[:width] for segment in segments]
        steps = torch.arange(len(segments[0].tokens), device=self._device)
        positions = self._indices([segment.start for segment in segments])[:, None] + steps  # [B, T]
        mask = torch.arange(width * BLOCK_TOKENS, device=self._device) <= positions[:, None, :, None]
        return _Group(start, self._indices(tables), mask, ~mask[:, :, -1, :, None])

    def _indices(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _gathered(pool: Tensor, group: _Group) -> Tensor:
    """The sequences' blocks of pool [n_blocks, n_kv_head, BLOCK_TOKENS, d_head]: [B, n_kv_head, places, d_head].

    0 where no row looks: others have written there, and their NaN would be one here however little it counts.
    """
    return pool[group.tables].transpose(1, 2).flatten(2, 3).masked_fill_(group.unseen, 0)


def _widths(segments: Sequence[Segment], layer: int) -> Widths:
    """One width for all rows where they agree, else one per row."""
    widths = [segment.submodel.widths[layer] for segment in segments]
    if len(set(widths)) == 1:
        return widths[0]
    return tuple(width for width, segment in zip(widths, segments, strict=True) for _ in segment.tokens)
