"""Mix'n'Match without a search: widths that do not decrease with depth and come from two adjacent granularities only.

Of all ways to mix granularities at a size this "least slope" was the best in the NeurIPS 2024 version of MatFormer: the
first layers have the narrower of the two, the last ones the wider.
"""

from __future__ import annotations

from itertools import pairwise

from lts_ray.models.elastic_config import ElasticConfig
from lts_ray.submodel import Submodel


def least_slope(config: ElasticConfig) -> list[Submodel]:
    """All of them, strictly growing in size; the trained granularities are the ones with one kind of layer."""
    trained = list(config.trained.values())
    mixed = [
        _mixed(config, narrow, wide, wider)
        for narrow, wide in pairwise(trained)
        for wider in range(config.n_layer)  # layers that have the wider granularity already
    ]
    # in a layer of few neurons two granularities may round to one width; what it makes twice is listed once
    return list(dict.fromkeys((*mixed, trained[-1])))


def _mixed(config: ElasticConfig, narrow: Submodel, wide: Submodel, wider: int) -> Submodel:
    """`wide` in the last `wider` layers. All layers share one d_model: the wider one, unless no layer is."""
    first = config.n_layer - wider
    heads: tuple[int, ...] = ()
    if config.elastic_heads:
        heads = (narrow.heads or config.elastic_heads)[:first] + (wide.heads or config.elastic_heads)[first:]
    widths = narrow.widths[:first] + wide.widths[first:]
    return config.check(Submodel(widths, heads=heads, d_model=wide.d_model if wider else narrow.d_model))
