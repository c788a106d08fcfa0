from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.spaces.equal_size import EqualSize
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel


def config(widths: tuple[int, ...]) -> MatFormerConfig:
    return MatFormerConfig(vocab_size=8, d_model=8, n_head=2, n_kv_head=1, widths=widths, context_length=8)


configs = st.builds(lambda width, layers: config((width,) * layers), st.integers(8, 200), st.integers(1, 12))
uneven = st.lists(st.integers(1, 100), min_size=1, max_size=6).map(tuple).map(config)


@given(shape=configs)
def test_widths_do_not_decrease_with_depth_and_are_of_two_adjacent_granularities(shape: MatFormerConfig) -> None:
    granularities = [each.widths[0] for each in shape.trained.values()]
    for submodel in least_slope(shape):
        assert list(submodel.widths) == sorted(submodel.widths)
        used = sorted({granularities.index(width) for width in submodel.widths})
        assert len(used) == 1 or (len(used) == 2 and used[1] == used[0] + 1)


@given(shape=configs)
def test_there_are_all_of_them_with_the_trained_ones(shape: MatFormerConfig) -> None:
    """n - 1 mixed ones between each two of four granularities."""
    found = least_slope(shape)
    assert len(found) == len(set(found)) == 4 + 3 * (shape.n_layer - 1)
    assert set(shape.trained.values()) <= set(found)


@given(shape=st.one_of(configs, uneven))
def test_sizes_strictly_grow_even_where_granularities_round_to_one_width(shape: MatFormerConfig) -> None:
    sizes = [shape.decoder_params(each) for each in least_slope(shape)]
    assert all(smaller < larger for smaller, larger in pairwise(sizes))
    assert sizes[-1] == shape.decoder_params()


def test_heads_mix_layer_by_layer_and_d_model_is_the_wider_ones() -> None:
    shape = replace(
        config((16, 16)), granularities={"S": 0.5, "XL": 1}, nested_heads={"S": 0.5}, nested_d_model={"S": 0.5}
    )
    shape = replace(shape, n_kv_head=2)
    assert least_slope(shape) == [
        Submodel((8, 8), heads=(1, 1), d_model=4),
        Submodel((8, 16), heads=(1, 2)),
        Submodel((16, 16)),
    ]


def test_three_layers_written_out() -> None:
    assert [each.widths for each in least_slope(config((16, 16, 16)))][:5] == [
        (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8),
    ]  # fmt: skip


@given(shape=uneven.filter(lambda each: each.n_layer <= 4), picks=st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_the_mixes_of_one_size_are_those_that_brute_force_finds(shape: MatFormerConfig, picks: list[int]) -> None:
    columns = [sorted(set(column)) for column in zip(*(each.widths for each in shape.trained.values()), strict=True)]
    submodel = Submodel(tuple(column[pick % len(column)] for column, pick in zip(columns, picks, strict=False)))
    space = EqualSize.like(shape, submodel)
    expected = {Submodel(widths) for widths in product(*columns) if sum(widths) == sum(submodel.widths)}
    listed = list(space.listing())
    assert set(listed) == expected
    assert len(listed) == space.count == len(expected)


@given(seed=st.integers(0, 2**32), place=st.integers(1, 40))
def test_drawn_and_mutated_submodels_keep_the_size(seed: int, place: int) -> None:
    """16 layers, where nobody lists the 4^16 mixes."""
    shape, rng = config((256,) * 16), np.random.default_rng(seed)
    like = least_slope(shape)[place]
    space = EqualSize.like(shape, like)
    drawn = space.sample(rng)
    mutated = space.mutate(drawn, rng)
    widths = {each.widths[0] for each in shape.trained.values()}
    for each in (drawn, mutated):
        assert sum(each.widths) == sum(like.widths)
        assert set(each.widths) <= widths
    assert sum(mine != other for mine, other in zip(drawn.widths, mutated.widths, strict=True)) <= 3


def test_every_mix_of_a_size_is_drawn_equally_often() -> None:
    """Chi-square over the 18 mixes of four layers that are as large as M, M, L, L."""
    shape, rng = config((64,) * 4), np.random.default_rng(0)
    space = EqualSize.like(shape, Submodel((16, 16, 32, 32)))
    drawn = Counter(space.sample(rng) for _ in range(3600))
    assert len(drawn) == space.count == 18
    assert stats.chisquare(list(drawn.values())).pvalue > 0.01


def test_mutations_reach_every_mix_of_a_size() -> None:
    shape, rng = config((64,) * 4), np.random.default_rng(0)
    space = EqualSize.like(shape, Submodel((16, 16, 32, 32)))
    current, seen = space.sample(rng), set()
    for _ in range(1000):
        current = space.mutate(current, rng)
        seen.add(current)
    assert seen == set(space.listing())


def test_a_size_that_no_mix_has_has_none() -> None:
    assert EqualSize([(8, 16), (8, 16)], 20).count == 0
    with pytest.raises(AssertionError):
        EqualSize([(8, 16), (8, 16)], 20).sample(np.random.default_rng(0))
