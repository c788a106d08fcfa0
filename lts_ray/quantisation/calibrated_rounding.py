"""Rounding that loses less than to the nearest: what one weight's rounding adds to the outputs, the next ones undo.

As in GPTQ (Frantar et al., 2023), one input after another, at inputs of real text; but once for both precisions. A code
is the best one in 8 bits among those whose upper half serves 4, where the two may differ by a few codes of 256.
Neurons of narrower submodels come first, so what they leave over is undone by those that only wider ones have; the
inputs are those of all granularities, so that the sum of their errors is what is made small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lts_ray.models.attend import OwnTokens
from lts_ray.models.extent import Extent
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.quantisation.quantised_matrix import (
    GROUP,
    MIDDLE,
    UPPER_MIDDLE,
    QuantisedMatrix,
    least_scales,
    steps_of,
)
from lts_ray.quantisation.quantised_weights import rounded_weights

SLACK = 3.0
"""Codes of 256 by which a weight in 8 bits may be off for the sake of 4."""
FACTORS = torch.linspace(0.97, 1.25, 13)
"""Of the scale that a group's largest weight asks for: what is tried."""
DAMPING = 0.01
"""Of the mean second moment, added to each: what the text does not show is not to be trusted."""


class _Inputs(TorchFunctionMode):
    """Sums up the second moments of what the matrices of one block are multiplied by."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        matrices = [(name, weight) for name, weight in block.named_parameters() if weight.dim() == 2]
        self._names = {weight.untyped_storage().data_ptr(): name for name, weight in matrices}
        self._sizes = {name: weight.shape[1] for name, weight in matrices}
        self.moments: dict[str, Tensor] = {}
        """Of the first of the matrices that have the same inputs."""
        self.together: dict[str, list[str]] = {}
        """All of them, by the first: query, key and value; gate and up."""
        self._last: tuple[object, list[str]] = None, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            x, weight = args[:2]
            name = self._names[weight.untyped_storage().data_ptr()]
            if x is not self._last[0]:
                size, rows = self._sizes[name], x.flatten(0, -2)
                self._last = x, self.together.setdefault(name, [name])
                sums = self.moments.setdefault(name, torch.zeros(size, size, device=x.device))
                sums[: x.shape[-1], : x.shape[-1]] += rows.T @ rows
            elif name not in self._last[1]:
                self._last[1].append(name)
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def calibrated_weights(
    model: MatFormer, tokens: Tensor, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, QuantisedMatrix]:
    """All matrices of `model`. tokens: [N, T] of text that it was trained on. progress: told of layers done, of all.

    Embedding and output matrix are rounded to the nearest: they are multiplied by in 8 bits.
    """
    config, attend = model.config, OwnTokens()
    extents = [Extent.of(submodel, len(tokens), config) for submodel in config.trained.values()]
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(1, -1)
    starts = [model.start(tokens, positions, extent.d_model) for extent in extents]
    rotary, streams = starts[0][1], [x for x, _ in starts]
    rounded = rounded_weights(model)
    for layer, block in enumerate(model.layers):
        with _Inputs(block) as inputs:
            for place, extent in enumerate(extents):
                streams[place] = block(streams[place], rotary, extent=extent, attend=attend, layer=layer)
        for first, names in inputs.together.items():
            matrices = tuple(block.get_parameter(name) for name in names)
            outputs = [len(matrix) for matrix in matrices]
            whole = round_calibrated(torch.cat(matrices), inputs.moments[first])
            parts = zip(names, torch.split(whole.codes, outputs), torch.split(whole.scales, outputs), strict=True)
            rounded |= {f"layers.{layer}.{name}": QuantisedMatrix(*map(Tensor.clone, each)) for name, *each in parts}
        progress(layer + 1, config.n_layer)
    return rounded


def round_calibrated(matrix: Tensor, moments: Tensor) -> QuantisedMatrix:
    """matrix: [n_out, n_in]; moments: [n_in, n_in], the inputs' second ones, of any scale."""
    n_out, n_in = matrix.shape
    undone = _propagation(moments)
    left4 = matrix.detach().to(torch.float32).T.contiguous()  # [n_in, n_out]: an input's weights lie side by side
    left8 = left4.clone()
    codes = torch.empty(n_in, n_out, dtype=torch.uint8, device=matrix.device)
    scales = torch.empty(-(-n_in // GROUP), n_out, dtype=torch.float16, device=matrix.device)
    for group, start in enumerate(range(0, n_in, GROUP)):
        own = slice(start, min(start + GROUP, n_in))
        importance = undone.diagonal()[own].square().reciprocal()[:, None]
        scales[group] = _scale(left4[own], left8[own], importance)
        step = steps_of(scales[group])
        errors4, errors8 = torch.empty_like(left4[own]), torch.empty_like(left8[own])
        for place in range(own.start, own.stop):
            code = codes[place] = _codes(left4[place] / step, left8[place] / step)
            at, ahead = place - start, undone[place, place + 1 : own.stop, None]
            errors4[at] = (left4[place] - step * ((code & 0xF0).float() - UPPER_MIDDLE)) / undone[place, place]
            errors8[at] = (left8[place] - step * (code.float() - MIDDLE)) / undone[place, place]
            left4[place + 1 : own.stop] -= ahead * errors4[at]
            left8[place + 1 : own.stop] -= ahead * errors8[at]
        left4[own.stop :] -= undone[own, own.stop :].T @ errors4
        left8[own.stop :] -= undone[own, own.stop :].T @ errors8
    return QuantisedMatrix(codes.T.contiguous(), scales.T.contiguous())


def _propagation(moments: Tensor) -> Tensor:
    """[n_in, n_in], upper triangular: row j says what an error at input j, over the diagonal, changes in later ones."""
    damped = moments.to(torch.float64, copy=True)
    mean = damped.diagonal().mean().clamp_min(1e-12)
    damped.diagonal().add_(DAMPING * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.to(torch.float32)


def _scale(weights4: Tensor, weights8: Tensor, importance: Tensor) -> Tensor:
    """[n_out], of a group: weights4, weights8: [inputs, n_out]; importance: [inputs, 1], of a squared error."""
    tried = least_scales(weights8, dim=0) * FACTORS.to(weights8.device)[:, None]  # [FACTORS, n_out]
    steps = torch.where(tried == 0, 1e-30, tried)[:, None]
    levels = ((weights4 / steps + UPPER_MIDDLE) / 16).round_().clamp_(0, 15) * 16 - UPPER_MIDDLE
    errors = ((levels * steps - weights4).square_() * importance).sum(dim=1)
    best: Tensor = tried.gather(0, errors.argmin(dim=0, keepdim=True))[0]
    return best.to(torch.float16)


def _codes(wanted4: Tensor, wanted8: Tensor) -> Tensor:
    """[n_out] uint8: what stands for `wanted4` steps in 4 bits and for `wanted8` in 8."""
    exact = wanted8 + MIDDLE
    least, most = ((exact - SLACK - 15) / 16).ceil_(), ((exact + SLACK) / 16).floor_()
    upper = ((wanted4 + UPPER_MIDDLE) / 16).round_().clamp_(least, most).clamp_(0, 15) * 16
    return exact.round_().clamp_(upper, upper + 15).to(torch.uint8)
