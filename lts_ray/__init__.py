"""lts-ray: one nested Transformer, searched on real hardware and served elastically on Ray.

The names below are the public interface; all else may change. They load on first use, so that importing the package,
and `lts-ray --help`, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lts_ray.architecture import Submodel
    from lts_ray.decoding.generate import generate
    from lts_ray.errors import LtsRayError
    from lts_ray.frontier import Frontier, read_frontier
    from lts_ray.measurement.target import Target
    from lts_ray.models.checkpoint import load_checkpoint
    from lts_ray.models.config import MatFormerConfig
    from lts_ray.models.extract import extract
    from lts_ray.models.matformer import MatFormer

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
    "MatFormer": "lts_ray.models.matformer",
    "MatFormerConfig": "lts_ray.models.config",
    "Submodel": "lts_ray.architecture",
    "Target": "lts_ray.measurement.target",
    "extract": "lts_ray.models.extract",
    "generate": "lts_ray.decoding.generate",
    "load_checkpoint": "lts_ray.models.checkpoint",
    "read_frontier": "lts_ray.frontier",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lts_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
