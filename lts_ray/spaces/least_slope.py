"""Mix'n'Match without a search: widths that do not decrease with depth and come from two adjacent granularities only.

Of all ways to mix granularities at a size this "least slope" was the best in the NeurIPS 2024 version of MatFormer: the
first layers have the narrower of the two, the last ones the wider.
"""

from __future__ import annotations

from itertools import pairwise

from lts_ray.architecture import Submodel
from lts_ray.models.config import MatFormerConfig


def least_slope(config: MatFormerConfig) -> list[Submodel]:
    """All of them, strictly growing in size; the trained granularities are the ones with one kind of layer."""
    trained = [submodel.widths for submodel in config.trained.values()]
    mixed = [
        Submodel(narrow[: config.n_layer - wider] + wide[config.n_layer - wider :])
        for narrow, wide in pairwise(trained)
        for wider in range(config.n_layer)  # layers that have the wider granularity already
    ]
    # in a layer of few neurons two granularities may round to one width; what it makes twice is listed once
    return list(dict.fromkeys((*mixed, Submodel(trained[-1]))))


def nearest(config: MatFormerConfig, share: float) -> Submodel:
    """The one whose share of the universal model's FFN neurons is closest; the smaller one of two."""
    return min(least_slope(config), key=lambda each: abs(config.relative_size(each) - share))
