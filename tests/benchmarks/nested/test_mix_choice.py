from __future__ import annotations

import numpy as np

from benchmarks.nested.mix_choice import choose, draw, random_choice, searched_choice
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.spaces.equal_size import EqualSize
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel


def shape(layers: int) -> MatFormerConfig:
    return MatFormerConfig(vocab_size=8, d_model=8, n_head=2, n_kv_head=1, widths=(64,) * layers, context_length=8)


def slope_loss(submodel: Submodel) -> float:
    """A loss with one best mix of each size: neurons count the more the deeper they are."""
    return -sum(width * layer**2 for layer, width in enumerate(submodel.widths))


def test_where_there_are_few_mixes_both_choices_find_the_best() -> None:
    config = shape(4)
    space = EqualSize.like(config, Submodel((16, 16, 32, 32)))
    best = min(space.listing(), key=slope_loss)
    for choice in (random_choice, searched_choice):
        assert choice(space, slope_loss, evaluations=18, rng=np.random.default_rng(0)) == best


def test_both_choices_look_at_the_same_number_of_different_mixes_and_the_searched_one_finds_a_better() -> None:
    """12 layers have 485,265 mixes of this size; over five seeds, so that no lucky draw decides."""
    config = shape(12)
    space = EqualSize.like(config, least_slope(config)[18])
    assert space.count > 10_000
    losses: dict[str, list[float]] = {"random": [], "searched": []}
    for seed in range(5):
        for name, choice in (("random", random_choice), ("searched", searched_choice)):
            seen: list[Submodel] = []

            def noted(submodel: Submodel, seen: list[Submodel] = seen) -> float:
                seen.append(submodel)
                return slope_loss(submodel)

            chosen = choice(space, noted, evaluations=60, rng=np.random.default_rng(seed))
            assert len(set(seen)) == 60
            assert slope_loss(chosen) == min(map(slope_loss, seen))
            losses[name].append(slope_loss(chosen))
    assert all(mine < other for mine, other in zip(losses["searched"], losses["random"], strict=True))


def test_mixes_are_drawn_without_repeats_and_are_all_of_them_where_few() -> None:
    space = EqualSize.like(shape(4), Submodel((16, 16, 32, 32)))
    assert len(set(draw(space, 10, np.random.default_rng(0)))) == 10
    assert set(draw(space, 30, np.random.default_rng(0))) == set(space.listing())


def test_a_choice_is_made_halfway_between_each_two_granularities() -> None:
    told: list[tuple[int, int]] = []
    chosen = choose(
        shape(4), slope_loss, evaluations=6, rng=np.random.default_rng(0), progress=lambda *done: told.append(done)
    )
    assert [each.least_slope.widths for each in chosen] == [(8, 8, 16, 16), (16, 16, 32, 32), (32, 32, 64, 64)]
    assert [len(each.drawn) for each in chosen] == [5, 5, 5]
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert choose(shape(1), slope_loss, evaluations=6, rng=np.random.default_rng(0)) == []
