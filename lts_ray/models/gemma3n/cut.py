"""Which part of each tensor of a checkpoint a submodel's own checkpoint has, and under which name.

gate and up keep their first rows, down its first columns; layers are numbered anew without those left out, and of what
has a part for each layer, their parts go as well. Everything else, vision and audio too, stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.submodel import Submodel

PREFIXES = ("model.language_model.", "model.", "language_model.", "")
"""Of the decoder's tensors, in the files of a whole model, of the decoder, and of either without its head."""
TABLE = "embed_tokens_per_layer.weight"
PROJECTION = "per_layer_model_projection.weight"
ANCHOR = "embed_tokens.weight"

Ranges = tuple[tuple[int, int], ...]


def prefix_of(names: Collection[str]) -> str:
    """Of the decoder's tensors among `names`."""
    for prefix in PREFIXES:
        if prefix + ANCHOR in names:
            return prefix
    raise LtsRayError(f"no {ANCHOR} is among its {len(names)} tensors: these are not the weights of a Gemma 3n")


def sliced_config(config: Gemma3nConfig, submodel: Submodel) -> Gemma3nConfig:
    """The submodel as a model of its own."""
    chosen = config.check(submodel)
    kept = [layer for layer, width in enumerate(chosen.widths) if width]
    return replace(
        config,
        widths=tuple(chosen.widths[layer] for layer in kept),
        layer_types=tuple(config.layer_types[layer] for layer in kept),
        sparsity=tuple(config.sparsity[layer] for layer in kept),
        n_shared=sum(layer >= config.first_shared for layer in kept),
        granularities={"XL": 1.0},
        named={},
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What stays of one tensor."""

    name: str
    rows: Ranges | None = None
    """Which of its first dimension, in order; None: all."""
    columns: Ranges | None = None
    """Which of its second one, likewise."""

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """Of what stays of a tensor of shape `whole`."""
        sizes = list(whole)
        for dimension, ranges in enumerate((self.rows, self.columns)):
            if ranges is not None:
                sizes[dimension] = sum(stop - start for start, stop in ranges)
        return tuple(sizes)


def cut_of(name: str, config: Gemma3nConfig, submodel: Submodel, *, prefix: str) -> Cut | None:
    """Of the universal model's tensor `name`; None: nothing stays of it. prefix: of the decoder's tensors."""
    kept = [layer for layer, width in enumerate(submodel.widths) if width]
    match = re.fullmatch(re.escape(prefix) + r"layers\.(\d+)\.(.+)", name)
    if match:
        layer, part = int(match[1]), match[2]
        if layer not in kept:
            return None
        renamed, first = f"{prefix}layers.{kept.index(layer)}.{part}", ((0, submodel.widths[layer]),)
        if part in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
            return Cut(name=renamed, rows=first)
        return Cut(name=renamed, columns=first if part == "mlp.down_proj.weight" else None)
    if name == prefix + TABLE:
        return Cut(name=name, columns=_of_layers(kept, config.d_per_layer))
    if name == prefix + PROJECTION:
        return Cut(name=name, rows=_of_layers(kept, config.d_per_layer))
    return Cut(name=name)


def _of_layers(kept: Sequence[int], size: int) -> Ranges:
    """The places of the layers' parts, `size` each; neighbours become one range."""
    ranges: list[tuple[int, int]] = []
    for layer in kept:
        start, stop = layer * size, (layer + 1) * size
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return tuple(ranges)
