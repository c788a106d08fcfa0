from __future__ import annotations

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from lts_ray.proxies.layer_design import design
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import opt_space as opt
from lts_ray.spaces import transformer_xl_space as transformer_xl
from lts_ray.spaces.backbone_space import BackboneSpace

SPACES = pytest.mark.parametrize(
    "space", [gpt2.SPACE, gpt2.HOMOGENEOUS, transformer_xl.SPACE, opt.SPACE], ids=lambda space: str(space.name)
)


@SPACES
@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_design_is_that_many_distinct_stacks_of_equal_layers_of_the_space(space: BackboneSpace, count: int) -> None:
    stacks = design(space, count=count, rng=np.random.default_rng(0))
    assert len(set(stacks)) == len(stacks) == count
    for stack in stacks:
        assert space.contains(stack)
        assert len(set(stack.n_head)) == len(set(stack.d_inner)) == 1


def test_the_same_generator_gives_the_same_design_and_another_another() -> None:
    first, again, other = (design(gpt2.SPACE, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@SPACES
def test_every_range_is_covered_from_end_to_end(space: BackboneSpace) -> None:
    """A latin hypercube visits each sixtieth of each axis once, so each width, though the rule on d_inner cuts some."""
    stacks = design(space, count=60, rng=np.random.default_rng(1))
    ranges = space.ranges
    assert {stack.d_model for stack in stacks} == set(ranges.d_model)
    heads = [stack.n_head[0] for stack in stacks]
    assert [heads.count(each) for each in ranges.n_head] == [60 // len(ranges.n_head)] * len(ranges.n_head)
    places = [
        ranges.d_inner_for(stack.d_model).index(stack.d_inner[0]) / len(ranges.d_inner_for(stack.d_model))
        for stack in stacks
    ]
    assert min(places) < 1 / 60 + 1 / 30
    assert max(places) > 1 - 1 / 60 - 1 / 30


@SPACES
def test_most_stacks_are_shallow_and_some_are_as_deep_as_the_space_goes(space: BackboneSpace) -> None:
    depths = sorted(stack.n_layer for stack in design(space, count=60, rng=np.random.default_rng(2)))
    lowest, highest = space.ranges.n_layer[0], space.ranges.n_layer[-1]
    assert depths[0] == lowest
    assert depths[-1] == highest
    assert depths[30] <= lowest + (highest - lowest) / 3


def test_a_space_with_too_few_stacks_says_how_many_it_has() -> None:
    ranges = gpt2.SPACE.ranges
    small = type(ranges)(n_layer=(2, 3), d_model=(128,), n_head=(2,), d_inner=(256, 512), div_val=4)
    space = type(gpt2.SPACE)(
        name="small",
        backbone="gpt2",
        ranges=small,
        count_decoder_params=gpt2.SPACE.count_decoder_params,
        count_total_params=gpt2.SPACE.count_total_params,
        vocab_size=100,
    )
    assert len(design(space, count=4, rng=np.random.default_rng(0))) == 4
    with pytest.raises(LtsRayError, match="ask for 4"):
        design(space, count=5, rng=np.random.default_rng(0))
    with pytest.raises(LtsRayError, match="at least one"):
        design(space, count=0, rng=np.random.default_rng(0))
