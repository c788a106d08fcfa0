"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.spaces import bert, gpt2, opt, t5, transformer_xl
from lts_ray.spaces.backbone import BackboneSpace
from lts_ray.spaces.base import SearchSpace
from lts_ray.spaces.mix_n_match import MixNMatch

SUBMODEL_SPACES: Mapping[str, Callable[[DecoderConfig], SearchSpace[Submodel]]] = {MixNMatch.name: MixNMatch}
"""Spaces of submodels of one universal model."""
BACKBONE_SPACES: Mapping[str, BackboneSpace] = {
    space.name: space
    for space in (
        gpt2.SPACE,
        gpt2.HOMOGENEOUS,
        transformer_xl.SPACE,
        transformer_xl.HOMOGENEOUS,
        opt.SPACE,
        bert.SPACE,
        t5.SPACE,
        t5.HOMOGENEOUS,
    )
}
"""Spaces of architectures, searched before anything is trained."""


def submodel_space(name: str, config: DecoderConfig) -> SearchSpace[Submodel]:
    """Raises LtsRayError for an unknown name."""
    if name not in SUBMODEL_SPACES:
        raise LtsRayError(_unknown(name, [*SUBMODEL_SPACES]))
    return SUBMODEL_SPACES[name](config)


def backbone_space(name: str) -> BackboneSpace:
    """Raises LtsRayError for an unknown name."""
    if name not in BACKBONE_SPACES:
        raise LtsRayError(_unknown(name, [*BACKBONE_SPACES]))
    return BACKBONE_SPACES[name]


def _unknown(name: str, known: list[str]) -> str:
    return f"unknown search space {name!r}; known: {', '.join(known)}"
