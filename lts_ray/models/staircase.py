"""Rows of different FFN width in one pass: what lets requests, or granularities in training, share a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Part = tuple[Tensor, Tensor | None]
Band = Callable[[Tensor], Tensor]
"""What some neurons add to the output. Takes [..., d_model], and returns it."""


class Banded(Protocol):
    """A nested FFN block: `gate_proj` (where it is gated), `up_proj` and `down_proj`, with biases or without."""

    gated: bool
    activation: Callable[[Tensor], Tensor]
    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def band(self, x: Tensor, start: int, stop: int) -> Tensor: ...


def staircase(x: Tensor, widths: Sequence[int], ffn: Banded) -> Tensor:
    """Rows of different FFN width in one pass; each weight is read once.

    x: [B, T, d_model]. widths: neurons per row, non-increasing. Returns x's shape.
    Exact because every neuron acts alone: a row of width m is the sum of the bands below m. The bands go from the
    narrowest, which all rows have, to the widest, which only the first rows have.
    """
    steps = sorted(set(widths))
    if torch.is_grad_enabled():
        return _staircase_with_gradients(x, widths, steps, ffn)
    out = ffn.band(x, 0, steps[0])
    for below, width in pairwise(steps):
        rows = sum(w >= width for w in widths)
        out[:rows] += ffn.band(x[:rows], below, width)
    return out


def fan(x: Tensor, widths: Sequence[int], ffn: Banded) -> Tensor:
    """The same rows under each of G widths: x [B, T, d_model] to [G·B, T, d_model], width by width.

    Costs no more than the widest alone: each width's result is that of the next narrower one and one more band.
    """
    x, steps = _autocast(x), sorted(set(widths))
    results: dict[int, Tensor] = {}
    below: Tensor | None = None
    for width, band in zip(steps, bands(ffn, steps, x.shape[-1]), strict=True):
        below = band(x) if below is None else below + band(x)
        results[width] = below
    return torch.cat([results[width] for width in widths])


def _staircase_with_gradients(x: Tensor, widths: Sequence[int], steps: Sequence[int], ffn: Banded) -> Tensor:
    """Adds from the widest band down, so that nothing is written in place."""
    if x.is_cuda:
        return each_alone(x, widths, ffn)
    x = _autocast(x)
    out: Tensor | None = None
    for width, band in reversed(list(zip(steps, bands(ffn, steps, x.shape[-1]), strict=True))):
        rows = sum(w >= width for w in widths)
        added = band(x[:rows])
        if out is None:
            out = added
        elif len(out) == rows:
            out = out + added
        else:
            out = torch.cat([out + added[: len(out)], added[len(out) :]])
    assert out is not None
    return out


def each_alone(x: Tensor, widths: Sequence[int], ffn: Banded) -> Tensor:
    """What `staircase` computes, with products of each width's own rows by all that the width has.

    Weights are read more often, and nothing that is as large as the rows is added up: what counts on a GPU, whose rows
    are many.
    """
    x, runs = _autocast(x), [(width, len(list(rows))) for width, rows in groupby(widths)]
    blocks = bands(ffn, [width for width, _ in runs], x.shape[-1], whole=True)
    parts = torch.split(x, [rows for _, rows in runs])
    return torch.cat([block(part) for block, part in zip(blocks, parts, strict=True)])


def bands(ffn: Banded, steps: Sequence[int], d_model: int, *, whole: bool = False) -> list[Band]:
    """The bands that end at `steps`, growing, for a pass with gradients; these are gathered by one concatenation a
    matrix. Slices would each have a gradient of the whole matrix's size, mostly zeros, all to be added up.

    d_model: of the rows, which may be a prefix of the matrices'. whole: blocks of all neurons up to each step instead.
    """
    ups = _cut(ffn.up_proj, steps, d_model, dim=0, whole=whole)
    gates = _cut(ffn.gate_proj, steps, d_model, dim=0, whole=whole) if ffn.gated else ups
    downs = _cut(ffn.down_proj, steps, d_model, dim=1, whole=whole)
    bias = ffn.down_proj.bias
    end = None if bias is None else bias[:d_model]
    ends = [end] * len(steps) if whole else [end, *[None] * (len(steps) - 1)]

    def band(x: Tensor, gate: Part, up: Part, down: Part, end: Tensor | None) -> Tensor:
        hidden = ffn.activation(functional.linear(x, *gate))
        if ffn.gated:
            hidden = hidden * functional.linear(x, *up)
        return functional.linear(hidden, down[0], end)

    return [
        partial(band, gate=gate, up=up, down=down, end=end)
        for gate, up, down, end in zip(gates, ups, downs, ends, strict=True)
    ]


def _cut(projection: nn.Linear, steps: Sequence[int], d_model: int, *, dim: int, whole: bool) -> list[Part]:
    """Weight and bias of each band: the matrix is cast once for all of them, and those past the last step left out."""
    weight, bias = _autocast(projection.weight.narrow(1 - dim, 0, d_model)), projection.bias
    if whole:
        return [
            (weight.narrow(dim, 0, step), None if bias is None or dim == 1 else bias.narrow(0, 0, step))
            for step in steps
        ]
    sizes = [steps[0], *(stop - start for start, stop in pairwise(steps))]
    rest = weight.shape[dim] - steps[-1]
    weights = torch.split(weight, [*sizes, rest], dim=dim)[: len(sizes)]
    if bias is None or dim == 1:
        return [(part, None) for part in weights]
    return list(zip(weights, torch.split(bias, [*sizes, rest])[: len(sizes)], strict=True))


def _autocast(x: Tensor) -> Tensor:
    """What every product would cast for itself, cast once."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
