"""Which runtime a model gets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from subprocess import CalledProcessError

import torch

from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.universal_model import UniversalModel
from lts_ray.quantisation.quantised_weights import QuantisedWeights, at_precision
from lts_ray.runtime.kernel_library import kernel_library
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.torch_runtime import TorchRuntime

logger = logging.getLogger(__name__)


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
    if weight.device.type == "cuda":
        runtime = gpu_runtime(model, chosen, n_blocks=n_blocks, half_cache=half_cache)
        if not isinstance(runtime, str):
            return runtime
        logger.warning("plain torch runs this model, slower than the kernels for GPUs would: %s", runtime)
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


def gpu_runtime(model: UniversalModel, precisions: Sequence[str], *, n_blocks: int, half_cache: bool) -> Runtime | str:
    """The runtime for GPUs, compiled; or why it does not run the model. Arguments as of `build_runtime`."""
    if not isinstance(model, MatFormer) or model.config.heads or _largest_matrix(model.config) >= 2**31:
        return "they run models of one family, with as many heads in all layers and no matrix of 2^31 numbers"
    if tuple(precisions) != (STORED,):
        return f"they run weights as they are stored, not in {', '.join(precisions)}"
    if half_cache and model.weight.dtype == torch.float32:
        return "they keep keys and values as they keep the weights"
    try:
        from triton.errors import TritonError
    except ImportError as error:
        return f"{error}: install triton"
    from lts_ray.runtime.cuda_runtime import CudaRuntime

    runtime = CudaRuntime(model, n_blocks=n_blocks)
    try:
        runtime.prepare()
    except (TritonError, RuntimeError, CalledProcessError) as error:
        if isinstance(error, RuntimeError) and "CUDA" in str(error):  # the device's own: no other runtime mends it
            raise
        logger.info("Triton's error", exc_info=error)
        one_line = str(error).partition("\n")[0]
        return f"Triton does not build them here ({type(error).__name__}: {one_line})"
    return runtime


def _largest_matrix(config: MatFormerConfig) -> int:
    return max(config.vocab_size, config.n_head * config.d_head, *config.widths) * config.d_model
