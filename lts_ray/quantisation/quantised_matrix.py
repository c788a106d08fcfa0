"""A matrix in eight bits a weight, whose upper four are the same matrix in four.

Each 32 inputs of an output are a group with one scale s. A code c in 0 … 255 stands for s (c - 136) in 8 bits, and
for s (16 ⌊c / 16⌋ - 128) in 4: the middle of the sixteen codes that have these upper bits. Both have a level at 0,
where most weights are, and one more on one side of it, which the sign of s chooses. A prefix of the inputs is a prefix
of the groups, whatever the precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lts_ray.errors import LtsRayError

GROUP = 32
"""Inputs that share a scale."""
MIDDLE, UPPER_MIDDLE = 136, 128
"""What the codes 0 … 255, and 16 times the upper bits, are counted from."""


@dataclass(frozen=True, eq=False)
class QuantisedMatrix:
    codes: Tensor
    """[n_out, n_in], uint8."""
    scales: Tensor
    """[n_out, groups], float16, of either sign; the last group may have fewer inputs."""

    def weights(self, precision: str) -> Tensor:
        """What stands for the matrix: [n_out, n_in], float32. precision: int8 or int4."""
        if precision == "int8":
            levels = self.codes.to(torch.float32) - MIDDLE
        elif precision == "int4":
            levels = (self.codes & 0xF0).to(torch.float32) - UPPER_MIDDLE
        else:
            raise LtsRayError(f"a quantised matrix has int8 and int4; got {precision!r}")
        n_in = self.codes.shape[1]
        return levels * self.scales.to(torch.float32).repeat_interleave(GROUP, dim=1)[:, :n_in]


def round_to_nearest(matrix: Tensor) -> QuantisedMatrix:
    """matrix: [n_out, n_in], of finite numbers."""
    n_out, n_in = matrix.shape
    groups = pad(matrix.detach().to(torch.float32), (0, -n_in % GROUP)).view(n_out, -1, GROUP)
    scales = least_scales(groups, dim=2).to(torch.float16)
    codes = (groups / steps_of(scales)[:, :, None]).round_().add_(MIDDLE).clamp_(0, 255).to(torch.uint8)
    return QuantisedMatrix(codes.view(n_out, -1)[:, :n_in].contiguous(), scales)


def least_scales(groups: Tensor, *, dim: int) -> Tensor:
    """With which 8 bits reach all weights along `dim`: code 0 the largest of all, 255 the largest of the other sign."""
    least, most = groups.amin(dim=dim), groups.amax(dim=dim)
    larger, other = torch.maximum(most, -least), torch.minimum(most, -least)
    return torch.maximum(larger / MIDDLE, other / (255 - MIDDLE)) * torch.where(most > -least, -1, 1)


def steps_of(scales: Tensor) -> Tensor:
    """What to divide by: float32, never 0."""
    steps = scales.to(torch.float32)
    return torch.where(steps == 0, torch.finfo(torch.float16).smallest_normal / 2**10, steps)
