"""A runtime of plain torch: any universal model, any device and dtype that torch has. It runs the model's own pass.

All rows of a step go through the matrices together, so that each weight is read once; rows of different width share the
FFN by its staircase. Only attention goes sequence by sequence where a piece of a prompt runs; single rows go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.attend import PLAIN, Look
from lts_ray.models.elastic_config import STORED
from lts_ray.models.extent import Extent
from lts_ray.models.universal_model import UniversalModel
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences whose attention is one call: the single rows together, or one piece of a prompt."""

    start: int
    """Its first row of the step."""
    tables: Tensor
    """[B, blocks], padded."""
    positions: Tensor
    """[B, 1, T, 1], the rows' places in their sequences."""
    mask: Tensor
    """[B, 1, T, places], true where a row may look."""
    unseen: Tensor
    """[B, 1, places, 1], true where none of its sequence's rows may."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.tables), self.positions.shape[2]

    def visible(self, window: int | None) -> Tensor:
        """`mask`, of no more than the last `window` places."""
        if window is None:
            return self.mask
        places = torch.arange(self.mask.shape[3], device=self.mask.device)
        return self.mask & (places > self.positions - window)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a step's N rows are. blocks, offsets: [N], each row's place in the cache."""

    blocks: Tensor
    offsets: Tensor
    groups: Sequence[_Group]


@dataclass(frozen=True, slots=True)
class _Pages:
    """The `Attend` of one step, whose tokens are N rows of one token. keys, values: of all layers and blocks."""

    keys: Tensor
    values: Tensor
    layout: _Layout
    remembers = True

    def remember(self, layer: int, k: Tensor, v: Tensor) -> None:
        """k, v: [N, n_kv_head, 1, d_head]."""
        self.keys[layer][self.layout.blocks, : k.shape[1], self.layout.offsets] = k[:, :, 0].to(self.keys.dtype)
        self.values[layer][self.layout.blocks, : v.shape[1], self.layout.offsets] = v[:, :, 0].to(self.values.dtype)

    def __call__(self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, look: Look = PLAIN) -> Tensor:
        """q: [N, n_head, 1, d_head]; k, v: [N, n_kv_head, 1, d_head]."""
        if k is not None and v is not None:
            self.remember(layer, k, v)
        layout, kept = self.layout, slice(0, q.shape[1] // look.group)
        keys, values = self.keys[layer], self.values[layer]
        seen = torch.empty_like(q)
        for sequences in layout.groups:
            rows, length = sequences.shape
            own = slice(sequences.start, sequences.start + rows * length)
            y = functional.scaled_dot_product_attention(
                q[own].view(rows, length, q.shape[1], q.shape[3]).transpose(1, 2),  # [B, n_head, T, d_head]
                _gathered(keys[:, kept], sequences).to(q.dtype),
                _gathered(values[:, kept], sequences).to(q.dtype),
                attn_mask=sequences.visible(look.window),
                scale=look.scale,
                enable_gqa=True,
            )
            seen[own] = y.transpose(1, 2).flatten(0, 1)[:, :, None]
        return seen


class TorchRuntime:
    """A `Runtime`. Rows are what they would be alone up to rounding, which depends on their number."""

    def __init__(
        self,
        model: UniversalModel,
        *,
        n_blocks: int,
        threads: int | None = None,
        at: Mapping[str, UniversalModel] | None = None,
        half_cache: bool = False,
    ) -> None:
        """threads: torch's, in the thread that calls `run`; None leaves them alone. at: what runs at each precision,
        the most precise first; None: `model` as it is stored. half_cache: keep keys and values in bfloat16."""
        config, weight = model.config, model.weight
        self.config, self.n_blocks = config, n_blocks
        self._models = {STORED: model} if at is None else at
        self._threads, self.device = threads, weight.device
        of_token = config.cache_shape
        shape = (of_token.n_layer, n_blocks, of_token.n_kv_head, BLOCK_TOKENS, of_token.d_head)
        dtype = torch.bfloat16 if half_cache else weight.dtype
        self._keys = torch.zeros(shape, dtype=dtype, device=weight.device)
        self._values = torch.zeros_like(self._keys)

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def kept_bytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def forget(self) -> None:
        """Its blocks are torch's, which gives none back."""

    @torch.inference_mode()
    def run(self, segments: Sequence[Segment]) -> Tensor:
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # per thread: what another one set does not count here
        limit = self.config.context_length
        for segment in segments:
            if segment.stop > limit:
                raise LtsRayError(f"{segment.stop} tokens do not fit: the context is {limit} tokens")
        of_precision: dict[str, list[int]] = {}
        for place, segment in enumerate(segments):
            precision = segment.submodel.precision or self.precisions[0]
            of_precision.setdefault(precision, []).append(place)
        rows: dict[int, Tensor] = {}
        for precision, places in of_precision.items():
            if precision not in self._models:
                raise LtsRayError(f"this runtime has {', '.join(self._models)}; a segment asks for {precision}")
            asking = [place for place in places if segments[place].wants_logits]
            logits = self._run(self._models[precision], [segments[place] for place in places])
            rows |= dict(zip(asking, logits, strict=True))
        return torch.stack([rows[place] for place in sorted(rows)]) if rows else logits

    def _run(self, model: UniversalModel, segments: Sequence[Segment]) -> Tensor:
        """As `run`, with one model."""
        # Single rows first; among equals the widest first, as the staircase wants them.
        order = sorted(
            range(len(segments)),
            key=lambda place: (len(segments[place].tokens) > 1, -sum(segments[place].submodel.widths)),
        )
        hidden = self._hidden(model, [segments[place] for place in order])
        stops, stop = {}, 0
        for place in order:
            stop += len(segments[place].tokens)
            stops[place] = stop
        last = [stops[place] - 1 for place, segment in enumerate(segments) if segment.wants_logits]
        return model.logits(hidden[last]).float().cpu()  # [segments that want them, vocab_size]

    def _hidden(self, model: UniversalModel, segments: Sequence[Segment]) -> Tensor:
        """Each token is a row of the model's pass. Returns [N, d_model], or as narrow as the widest row."""
        tokens = self._indices([[token] for segment in segments for token in segment.tokens])
        positions = self._indices([[place] for segment in segments for place in range(segment.start, segment.stop)])
        submodels = [_shape(segment.submodel) for segment in segments for _ in segment.tokens]
        alike = len(set(submodels)) == 1
        extent = Extent.of(submodels[0] if alike else submodels, len(submodels), self.config)
        pages = _Pages(self._keys, self._values, self._layout(segments))
        return model.run(tokens, positions, extent, pages)[:, 0]

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
        steps = torch.arange(len(segments[0].tokens), device=self.device)
        positions = (self._indices([segment.start for segment in segments])[:, None] + steps)[:, None, :, None]
        mask = torch.arange(width * BLOCK_TOKENS, device=self.device) <= positions  # [B, 1, T, places]
        return _Group(start, self._indices(tables), positions, mask, ~mask[:, :, -1, :, None])

    def _indices(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


@cache
def _shape(submodel: Submodel) -> Submodel:
    """Without its precision, which says which model runs."""
    return replace(submodel, precision="")


def _gathered(pool: Tensor, group: _Group) -> Tensor:
    """The sequences' blocks of pool [n_blocks, n_kv_head, BLOCK_TOKENS, d_head]: [B, n_kv_head, places, d_head].

    0 where no row looks: others have written there, and their NaN would be one here however little it counts.
    """
    return pool[group.tables].transpose(1, 2).flatten(2, 3).masked_fill_(group.unseen, 0)
