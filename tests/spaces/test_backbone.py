from __future__ import annotations

from math import log10

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import opt_space as opt
from lts_ray.spaces import transformer_xl_space as transformer_xl
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.named_spaces import BACKBONE_SPACES, backbone_space

every_space = pytest.mark.parametrize("space", BACKBONE_SPACES.values(), ids=BACKBONE_SPACES)


def keeps_the_rule(candidate: Architecture) -> bool:
    return all(width >= int(1.7 * candidate.d_model) for stack in candidate.stacks for width in stack.d_inner)


@every_space
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_samples_and_seeds_are_in_the_space_and_survive_json_and_genes(space: BackboneSpace, seed: int) -> None:
    for candidate in (space.sample(np.random.default_rng(seed)), *space.seeds()):
        assert space.contains(candidate)
        assert keeps_the_rule(candidate)
        assert space.from_json(space.to_json(candidate)) == candidate
        genes = space.to_genes(candidate)
        values = [genes.get(gene.name, gene.choices[0]) for gene in space.genes]
        assert space.from_genes(values) == candidate


@every_space
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), probability=st.floats(0, 1))
def test_a_child_is_in_the_space_unless_it_breaks_the_rule_on_d_inner(
    space: BackboneSpace, seed: int, probability: float
) -> None:
    rng = np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    for child in (space.mutate(first, rng, probability), space.crossover(first, second, rng)):
        assert space.contains(child) == keeps_the_rule(child)


@every_space
def test_mutated_genes_keep_the_rule_for_the_child_s_own_d_model(space: BackboneSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert keeps_the_rule(space.mutate(space.sample(rng), rng, 1.0))


@every_space
def test_a_mutation_without_luck_changes_nothing(space: BackboneSpace) -> None:
    rng = np.random.default_rng(0)
    candidate = space.sample(rng)
    assert space.mutate(candidate, rng, 0.0) == candidate


@given(seed=st.integers(0, 2**32))
def test_a_crossover_takes_every_gene_from_a_parent_that_has_it(seed: int) -> None:
    space, rng = gpt2.SPACE, np.random.default_rng(seed)
    parents = space.sample(rng), space.sample(rng)
    child = space.crossover(*parents, rng)
    assert child.n_layer in {each.n_layer for each in parents}
    assert child.d_model in {each.d_model for each in parents}
    for layer in range(child.n_layer):
        having = [each for each in parents if layer < each.n_layer]
        assert child.n_head[layer] in {each.n_head[layer] for each in having}
        assert child.d_inner[layer] in {each.d_inner[layer] for each in having}


@pytest.mark.parametrize("space", [gpt2.HOMOGENEOUS, transformer_xl.HOMOGENEOUS, opt.SPACE], ids=lambda each: each.name)
def test_homogeneous_layers_stay_alike(space: BackboneSpace) -> None:
    rng = np.random.default_rng(3)
    first, second = space.sample(rng), space.sample(rng)
    for candidate in (first, space.mutate(first, rng, 0.5), space.crossover(first, second, rng)):
        assert len(set(candidate.n_head)) == len(set(candidate.d_inner)) == 1
    uneven = Architecture(d_model=512, n_head=(2, 4, 4), d_inner=(1024,) * 3, d_embed=512)
    assert not opt.SPACE.contains(uneven)


@pytest.mark.parametrize(
    ("space", "with_rule"), [(transformer_xl.SPACE, 36.5), (gpt2.SPACE, 34.3)], ids=["transformer-xl", "gpt2"]
)
def test_sizes_are_those_of_the_paper(space: BackboneSpace, with_rule: float) -> None:
    """37.5 and 35.2 without the rule on d_inner, 36.5 for Transformer-XL with it (LTS, section 3)."""
    ranges = space.ranges
    per_layer = len(ranges.n_head) * len(ranges.d_inner)
    free = len(ranges.d_model) * sum(per_layer**n_layer for n_layer in ranges.n_layer)
    assert log10(free) == pytest.approx({"transformer-xl": 37.5, "gpt2": 35.2}[space.name], abs=0.05)
    assert log10(space.size) == pytest.approx(with_rule, abs=0.05)


@pytest.mark.parametrize(
    ("space", "n_layer", "d_model", "n_head", "d_inner", "millions"),
    [
        ("opt", 24, 1024, 16, 4096, 304.4),
        ("opt", 26, 1024, 16, 2816, 261.4),
        ("opt", 15, 1280, 16, 4480, 273.2),
        ("transformer-xl", 2, 512, 2, [1216, 1280], 5.2),
        ("transformer-xl", 3, 960, [2, 4, 2], [3328, 2368, 3200], 30.9),
    ],
)
def test_decoder_parameters_are_the_paper_s(
    space: str, n_layer: int, d_model: int, n_head: object, d_inner: object, millions: float
) -> None:
    """Tables 3 and 4, to the printed digit."""
    row = {"n_layer": n_layer, "d_model": d_model, "n_head": n_head, "d_inner": d_inner}
    if isinstance(d_inner, list) and isinstance(n_head, int):
        row["n_head"] = [n_head] * n_layer
    count = backbone_space(space).decoder_params(Architecture.from_json(row))
    assert round(count / 1e6, 1) == millions


def test_features_are_equally_many_and_tell_layers_order_apart() -> None:
    space = gpt2.SPACE
    rising = Architecture(d_model=128, n_head=(2, 2, 2), d_inner=(256, 512, 1024), d_embed=128, div_val=4)
    falling = Architecture(d_model=128, n_head=(2, 2, 2), d_inner=(1024, 512, 256), d_embed=128, div_val=4)
    assert space.decoder_params(rising) == space.decoder_params(falling)
    assert space.features(rising) != space.features(falling)
    rng = np.random.default_rng(0)
    assert len({len(space.features(space.sample(rng))) for _ in range(20)}) == 1


def test_an_unknown_space_is_named_with_those_there_are() -> None:
    with pytest.raises(LtsRayError, match="unknown search space 'gpt5'; known: gpt2, gpt2-homogeneous, transformer-xl"):
        backbone_space("gpt5")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"d_model": 8, "n_head": [2]}, "needs d_inner"),
        ({"d_model": 8, "n_head": [2], "d_inner": [8, 8]}, "one value per layer; got 1 and 2"),
        ({"d_model": 8, "n_head": 2, "d_inner": 8}, "or one number beside n_layer"),
        ({"d_model": 8, "n_head": [2], "d_inner": [8], "n_layer": 3}, "n_layer is 3"),
        ({"d_model": 8.5, "n_head": [2], "d_inner": [8]}, "positive whole numbers"),
        ({"d_model": 8, "n_head": [True], "d_inner": [8]}, "positive whole numbers"),
        ([1], "is an object"),
    ],
)
def test_what_is_not_an_architecture_is_one_clear_line(row: object, message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        Architecture.from_json(row)
