from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import PRECISIONS
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.spaces.named_spaces import submodel_space
from lts_ray.submodel import Submodel


def config(widths: tuple[int, ...]) -> MatFormerConfig:
    return MatFormerConfig(vocab_size=8, d_model=8, n_head=2, n_kv_head=1, widths=widths, context_length=8)


widths_lists = st.lists(st.integers(8, 100), min_size=1, max_size=6).map(tuple)


@given(widths=widths_lists, seed=st.integers(0, 2**32), probability=st.floats(0, 1))
def test_every_proposed_candidate_is_in_the_space(widths: tuple[int, ...], seed: int, probability: float) -> None:
    space, rng = MixNMatch(config(widths)), np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    for candidate in (first, space.mutate(first, rng, probability), space.crossover(first, second, rng)):
        assert space.contains(candidate)
        assert space.from_json(space.to_json(candidate)) == candidate


axes = st.fixed_dictionaries(
    {
        "nested_heads": st.none() | st.sampled_from([{"S": 0.25}, {"S": 0.5, "M": 0.75}]),
        "nested_d_model": st.none() | st.sampled_from([{"S": 0.3, "M": 0.5}, {"S": 0.5}]),
    }
)


@given(shares=axes, seed=st.integers(0, 2**32), probability=st.floats(0, 1))
def test_heads_and_d_model_are_genes_where_they_nest(
    shares: dict[str, dict[str, float] | None], seed: int, probability: float
) -> None:
    shape = MatFormerConfig(
        vocab_size=8, d_model=16, n_head=8, n_kv_head=4, widths=(16, 24), context_length=8, **shares
    )
    space, rng = MixNMatch(shape), np.random.default_rng(seed)
    nested_heads, nested_d_model = shares["nested_heads"], shares["nested_d_model"]
    assert len(space.genes) == 2 + (2 if nested_heads else 0) + (1 if nested_d_model else 0)
    first, second = space.sample(rng), space.sample(rng)
    smallest = shape.trained["S"]
    for candidate in (first, space.mutate(first, rng, probability), space.crossover(first, second, rng)):
        assert space.contains(candidate)
        assert space.from_json(space.to_json(candidate)) == candidate == shape.check(candidate)
        assert space.from_genes(list(space.to_genes(candidate).values())) == candidate
        assert len(space.features(candidate)) == 1 + len(space.genes)
        if nested_heads:
            heads = candidate.heads or shape.elastic_heads
            assert all(each % 2 == 0 and each >= least for each, least in zip(heads, smallest.heads, strict=True))
        assert (candidate.d_model or 16) >= (smallest.d_model or 16)
    assert list(space.seeds()) == list(reversed(shape.trained.values()))


@given(
    shares=axes,
    precisions=st.lists(st.sampled_from(PRECISIONS), min_size=1, unique=True),
    seed=st.integers(0, 2**32),
    probability=st.floats(0, 1),
)
def test_the_precision_of_the_whole_model_is_a_gene_where_several_are_searched(
    shares: dict[str, dict[str, float] | None], precisions: list[str], seed: int, probability: float
) -> None:
    shape = MatFormerConfig(
        vocab_size=8, d_model=16, n_head=8, n_kv_head=4, widths=(16, 24), context_length=8, **shares
    )
    plain, space, rng = MixNMatch(shape), MixNMatch(shape, precisions=precisions), np.random.default_rng(seed)
    assert space.size == plain.size * len(precisions)
    assert len(space.genes) == len(plain.genes) + (len(precisions) > 1)
    first, second = space.sample(rng), space.sample(rng)
    for candidate in (first, space.mutate(first, rng, probability), space.crossover(first, second, rng)):
        assert space.contains(candidate)
        assert (candidate.precision or "float32") in precisions
        assert space.from_json(space.to_json(candidate)) == candidate == shape.check(candidate)
        assert space.from_genes(list(space.to_genes(candidate).values())) == candidate
        assert len(space.features(candidate)) == len(plain.features(replace(candidate, precision=""))) + (
            2 if len(precisions) > 1 else 0
        )
        assert space.decoder_params(candidate) == plain.decoder_params(replace(candidate, precision=""))
    left = set(PRECISIONS) - set(precisions)
    assert not any(space.contains(shape.check(replace(first, precision=each))) for each in left)
    named = [(each, precision) for each in reversed(shape.trained.values()) for precision in PRECISIONS]
    assert list(space.seeds()) == [
        shape.check(replace(each, precision=precision)) for each, precision in named if precision in precisions
    ]


def test_a_listing_has_every_width_at_every_precision() -> None:
    space = MixNMatch(config((8, 8)), precisions=("int8", "int4"))
    listing = space.listing()
    assert listing is not None
    assert len(set(listing)) == len(listing) == space.size == 128
    sizes = {each: space.features(Submodel((8, 8), precision=each))[0] for each in ("int8", "int4")}
    assert np.log(0.5) < sizes["int4"] - sizes["int8"] < 0  # tables are in 8 bits in either


def test_a_model_that_runs_in_8_bits_alone_is_searched_as_it_is() -> None:
    shape = replace(config((64, 64)), precisions=("int8",))
    assert list(MixNMatch(shape).seeds()) == list(reversed(shape.trained.values()))
    with pytest.raises(LtsRayError, match="this model runs in int8; precisions asks for float32"):
        MixNMatch(shape, precisions=("float32",))


def test_a_precision_that_the_model_does_not_run_in_is_not_searched() -> None:
    with pytest.raises(LtsRayError, match="this model runs in float32, int8; precisions asks for int4"):
        MixNMatch(replace(config((64,)), precisions=("float32", "int8")), precisions=("int8", "int4"))


def test_where_every_layer_can_be_skipped_no_candidate_skips_them_all() -> None:
    shape = Gemma3nConfig(widths=(8, 8), layer_types=("full_attention",) * 2, n_shared=0)
    assert not any(map(shape.may_skip, range(2)))
    listing = MixNMatch(shape).listing()
    assert listing is not None
    assert len(set(listing)) == 9 * 8


@given(widths=widths_lists)
def test_the_trained_granularities_are_the_seeds_largest_first(widths: tuple[int, ...]) -> None:
    shape = config(widths)
    assert list(MixNMatch(shape).seeds()) == [shape.trained[name] for name in ("XL", "L", "M", "S")]


@given(seed=st.integers(0, 2**32))
def test_crossover_takes_every_gene_from_a_parent(seed: int) -> None:
    space, rng = MixNMatch(config((64,) * 5)), np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = space.crossover(first, second, rng)
    assert all(width in pair for width, pair in zip(child.widths, zip(first.widths, second.widths, strict=True)))  # noqa: B905


def test_the_space_has_every_combination_of_eight_widths() -> None:
    assert MixNMatch(config((64, 64, 64))).size == 512


@pytest.mark.parametrize("widths", [(8, 8), (8, 9, 8), (0, 8, 8), (72, 8, 8)], ids=str)
def test_what_is_not_a_candidate_is_refused(widths: tuple[int, ...]) -> None:
    space = MixNMatch(config((64, 64, 64)))
    with pytest.raises(LtsRayError):
        space.from_json(list(widths))


def test_decoder_params_are_those_of_the_model() -> None:
    shape = config((64, 64))
    assert MixNMatch(shape).decoder_params(Submodel((8, 64))) == shape.decoder_params(Submodel((8, 64)))


def test_an_unknown_space_names_the_known_ones() -> None:
    with pytest.raises(LtsRayError, match="unknown search space 'gpt5'; known: mix-n-match"):
        submodel_space("gpt5", config((64,)))
