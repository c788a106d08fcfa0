"""Which runtime a model gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.universal_model import UniversalModel
from lts_ray.quantisation.quantised_weights import QuantisedWeights, at_precision
from lts_ray.runtime.kernel_library import kernel_library
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.torch_runtime import TorchRuntime


def build_runtime(
    model: UniversalModel,
    *,
    n_blocks: int,
    threads: int,
    precisions: Sequence[str] | None = None,
    quantised: QuantisedWeights | None = None,
    half_cache: bool = False,
) -> Runtime:
    """The fastest that this model, on its device and in its dtype, has. threads: those of a step.

    precisions: that submodels may ask for; it holds no weights for others. None: what one runs in that asks for none.
    quantised: the matrices in 8 and 4 bits; None: they are rounded to the nearest. half_cache: keep keys and values in
    bfloat16, whatever the weights are.
    Raises LtsRayError for a precision that the model may not run in.
    """
    chosen = model.config.chosen_precisions(precisions)
    weight = model.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and kernel_library() is not None
    if fits and isinstance(model, MatFormer) and not model.config.heads:
        return NativeRuntime(
            model,
            n_blocks=n_blocks,
            threads=threads,
            precisions=chosen,
            quantised=quantised,
            half_cache=half_cache,
        )
    if chosen == (STORED,):
        return TorchRuntime(model, n_blocks=n_blocks, threads=threads, half_cache=half_cache)
    assert isinstance(model, MatFormer), "other models run in one precision"
    at = {each: model if each == STORED else at_precision(model, each, quantised) for each in chosen}
    return TorchRuntime(model, n_blocks=n_blocks, threads=threads, at=at, half_cache=half_cache)
