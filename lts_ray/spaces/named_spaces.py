"""Search spaces by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.spaces import bert_space as bert
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import opt_space as opt
from lts_ray.spaces import t5_space as t5
from lts_ray.spaces import transformer_xl_space as transformer_xl
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.spaces.search_space import SearchSpace
from lts_ray.submodel import Submodel

SUBMODEL_SPACES: Mapping[str, Callable[..., SearchSpace[Submodel]]] = {MixNMatch.name: MixNMatch}
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


def submodel_space(
    name: str, config: DecoderConfig, *, precisions: Sequence[str] | None = None
) -> SearchSpace[Submodel]:
    """Raises LtsRayError for an unknown name, or a precision that the model does not run in."""
    if name not in SUBMODEL_SPACES:
        raise LtsRayError(_unknown(name, [*SUBMODEL_SPACES, *BACKBONE_SPACES]))
    return SUBMODEL_SPACES[name](config, precisions=precisions)


def backbone_space(name: str) -> BackboneSpace:
    """Raises LtsRayError for an unknown name."""
    if name not in BACKBONE_SPACES:
        raise LtsRayError(_unknown(name, [*BACKBONE_SPACES]))
    return BACKBONE_SPACES[name]


def _unknown(name: str, known: list[str]) -> str:
    return f"unknown search space {name!r}; known: {', '.join(known)}"
