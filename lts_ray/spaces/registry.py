"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.config import MatFormerConfig
from lts_ray.spaces.base import SearchSpace
from lts_ray.spaces.mix_n_match import MixNMatch

SPACES: Mapping[str, Callable[[MatFormerConfig], SearchSpace[Submodel]]] = {MixNMatch.name: MixNMatch}
"""Spaces of submodels of one universal model."""


def space_named(name: str, config: MatFormerConfig) -> SearchSpace[Submodel]:
    """Raises LtsRayError for an unknown name."""
    if name not in SPACES:
        raise LtsRayError(f"unknown search space {name!r}; known: {', '.join(SPACES)}")
    return SPACES[name](config)
