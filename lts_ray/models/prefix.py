"""The first elements of a tensor along each of its dimensions: how a smaller model's weight lies in a larger one's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lts_ray.errors import LtsRayError


def prefix(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first shape[i] of every dimension i, as a view; of a tensor that has this shape, the tensor itself.

    Raises LtsRayError where the tensor has fewer, or other dimensions.
    """
    held = tuple(tensor.shape)
    if len(shape) != len(held) or any(size > whole for size, whole in zip(shape, held, strict=True)):
        raise LtsRayError(f"a weight of shape {tuple(shape)} cannot be cut out of one of shape {held}")
    for dimension, size in enumerate(shape):
        if size < held[dimension]:
            tensor = tensor.narrow(dimension, 0, size)
    return tensor
