"""Which runtime a model gets."""

from __future__ import annotations

import torch

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.universal_model import UniversalModel
from lts_ray.runtime.kernel_library import kernel_library
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.torch_runtime import TorchRuntime


def build_runtime(model: UniversalModel, *, n_blocks: int, threads: int) -> Runtime:
    """The fastest that this model, on its device and in its dtype, has. threads: those of a step."""
    weight = model.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and kernel_library() is not None
    if fits and isinstance(model, MatFormer) and not model.config.heads:
        return NativeRuntime(model, n_blocks=n_blocks, threads=threads)
    return TorchRuntime(model, n_blocks=n_blocks, threads=threads)
