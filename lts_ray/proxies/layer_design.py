"""Which layers to measure before a cost model of a whole space is fitted: a space-filling set of uniform stacks.

All layers of a stack are alike, so that a stack's cost is of one layer configuration (d_model, n_head, d_inner) and of
what surrounds the layers. Most stacks are shallow, which is quick to measure and tells the surroundings from the
layers. Some are deep: a shallow stack may fit a processor's cache, and its weights are then not read from memory as a
whole model's are.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.encoder_decoder_space import EncoderDecoderSpace

DEPTH_POWER = 2.0
"""Depths are spread as this power of an even spread: half of the stacks are within the lowest quarter of the range."""
PATIENCE = 100
"""Sets drawn to find distinct stacks."""


def design(space: BackboneSpace, *, count: int = 60, rng: np.random.Generator) -> list[Architecture]:
    """`count` distinct stacks of the space in random order: a slow hour then spoils no region of it.

    Raises LtsRayError where the space has fewer.
    """
    if count < 1:
        raise LtsRayError(f"a design needs at least one layer configuration; got {count}")
    chosen: dict[Architecture, None] = {}
    for _ in range(PATIENCE):
        missing = count - len(chosen)
        if not missing:
            return list(chosen)
        for place in qmc.LatinHypercube(d=_axes(space), rng=rng).random(missing).tolist():
            chosen[_stack(space, *place)] = None
    if len(chosen) == count:
        return list(chosen)
    raise LtsRayError(f"the space {space.name} has too few uniform stacks for {count} of them: ask for {len(chosen)}")


def _axes(space: BackboneSpace) -> int:
    """Depth, width, heads and neurons; where there is an encoder of its own, its depth, heads and neurons as well."""
    return 7 if isinstance(space, EncoderDecoderSpace) and not space.are_alike else 4


def _stack(
    space: BackboneSpace, depth: float, width: float, heads: float, neurons: float, *encoder: float
) -> Architecture:
    """The stack, or the two, at a place of the unit cube. encoder: depth, heads, neurons of the second."""
    ranges = space.ranges
    d_model = _at(ranges.d_model, width)

    def stack(depth: float, heads: float, neurons: float) -> Stack:
        n_layer = _at(ranges.n_layer, depth**DEPTH_POWER)
        d_inner = _at(ranges.d_inner_for(d_model), neurons)
        return Stack(n_head=(_at(ranges.n_head, heads),) * n_layer, d_inner=(d_inner,) * n_layer)

    return space.architecture(d_model, stack(depth, heads, neurons), stack(*encoder) if encoder else None)


def _at(values: tuple[int, ...], share: float) -> int:
    return values[min(int(share * len(values)), len(values) - 1)]
