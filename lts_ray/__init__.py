"""lts-ray: one nested Transformer, searched on real hardware and served elastically on Ray.

The names below are the public interface; all else may change. They load on first use, so that importing the package,
and `lts-ray --help`, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lts_ray.checkpoints.extracted import extract
    from lts_ray.decoding.plain_loop import generate
    from lts_ray.errors import LtsRayError
    from lts_ray.frontier import Frontier, read_frontier
    from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
    from lts_ray.models.matformer.matformer import MatFormer
    from lts_ray.models.matformer.matformer_config import MatFormerConfig
    from lts_ray.submodel import Submodel
    from lts_ray.target import Target

__all__ = [
    "Frontier",
    "LtsRayError",
    "MatFormer",
    "MatFormerConfig",
    "Submodel",
    "Target",
    "extract",
    "generate",
    "load_checkpoint",
    "read_frontier",
]

_MODULES = {
    "Frontier": "lts_ray.frontier",
    "LtsRayError": "lts_ray.errors",
    "MatFormer": "lts_ray.models.matformer.matformer",
    "MatFormerConfig": "lts_ray.models.matformer.matformer_config",
    "Submodel": "lts_ray.submodel",
    "Target": "lts_ray.target",
    "extract": "lts_ray.checkpoints.extracted",
    "generate": "lts_ray.decoding.plain_loop",
    "load_checkpoint": "lts_ray.models.matformer.hugging_face.checkpoint",
    "read_frontier": "lts_ray.frontier",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lts_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
