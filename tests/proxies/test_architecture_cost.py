"""The oracle is a known law, with what no sum over layers can express: weights that stay in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.proxies.architecture_cost import (
    COST_NAMES,
    ArchitectureCost,
    CostName,
    Predictions,
    Sample,
    fit_costs,
    learn,
    predict,
)
from lts_ray.proxies.layer_design import design
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import opt_space as opt
from lts_ray.spaces import transformer_xl_space as transformer_xl
from lts_ray.spaces.backbone_space import BackboneSpace

CACHE_BYTES = 32e6
SPACES = pytest.mark.parametrize(
    "space", [gpt2.SPACE, transformer_xl.SPACE, opt.SPACE], ids=lambda space: str(space.name)
)


def true_cost(architecture: Architecture, space: BackboneSpace) -> Cost:
    """Layer by layer: kernels at a rate that grows with d_model, weights at the speed of memory or of the cache."""
    d = architecture.d_model
    weight_bytes = 4 * space.count_total_params(architecture, vocab_size=space.vocab_size)
    missed = 1 / (1 + (CACHE_BYTES / weight_bytes) ** 4)
    rate = 9e10 * d / (d + 60)
    layers = zip(architecture.n_head, architecture.d_inner, strict=True)
    prefill_s = sum(2 * 192 * (4 * d * d + 2 * d * f) / rate + 2e-8 * 192 * h + 3e-5 for h, f in layers) + 1e-3
    decode_s = weight_bytes * (0.2 + 0.8 * missed) / 1.5e10 + 4e-5 * architecture.n_layer + 2e-4
    held = 8 * 193 * architecture.n_layer * d + 8 * 192 * (max(architecture.d_inner) + d)
    return Cost(prefill_ms=prefill_s * 1e3, decode_ms=decode_s * 1e3, peak_memory_mb=(weight_bytes + held) / 1e6)


def samples_of(
    architectures: Sequence[Architecture], space: BackboneSpace, *, noise: float = 0.0, seed: int = 0
) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        (
            each,
            replace(
                (cost := true_cost(each, space)),
                prefill_ms=cost.prefill_ms * float(np.exp(noise * rng.normal())),
                decode_ms=cost.decode_ms * float(np.exp(noise * rng.normal())),
            ),
        )
        for each in architectures
    ]


def fitted(space: BackboneSpace, *, noise: float = 0.0) -> ArchitectureCost:
    return fit_costs(samples_of(design(space, rng=np.random.default_rng(0)), space, noise=noise), space)


def errors(
    predictions: Predictions, architectures: Sequence[Architecture], space: BackboneSpace, name: CostName
) -> list[float]:
    truth = np.array([getattr(true_cost(each, space), name) for each in architectures])
    found: list[float] = np.abs(getattr(predictions, name).mean / truth - 1).tolist()
    return found


def unseen(space: BackboneSpace, count: int = 50) -> list[Architecture]:
    rng = np.random.default_rng(1)
    return [space.sample(rng) for _ in range(count)]


@SPACES
def test_sixty_stacks_of_equal_layers_predict_unseen_candidates_whose_layers_differ(space: BackboneSpace) -> None:
    candidates = unseen(space)
    predictions = fitted(space, noise=0.02).predict(candidates)
    assert np.mean(errors(predictions, candidates, space, "prefill_ms")) < 0.02
    assert np.mean(errors(predictions, candidates, space, "decode_ms")) < 0.03
    assert np.mean(errors(predictions, candidates, space, "peak_memory_mb")) < 0.002


def test_whole_models_are_predicted_from_stacks_of_half_their_depth() -> None:
    space = gpt2.SPACE
    shallow = replace(space, ranges=replace(space.ranges, n_layer=tuple(range(2, 8))))
    model = fit_costs(samples_of(design(shallow, rng=np.random.default_rng(0)), space, noise=0.01), space)
    deep = [each for each in unseen(space, 200) if each.n_layer >= 12]
    predictions = model.predict(deep)
    for name in COST_NAMES:
        assert np.mean(errors(predictions, deep, space, name)) < 0.05


def test_the_order_of_layers_does_not_matter_and_the_sum_over_them_does() -> None:
    model = fitted(gpt2.SPACE)
    mixed = Architecture(d_model=512, n_head=(2, 8, 4), d_inner=(1024, 4032, 2048), d_embed=512, div_val=4)
    turned = replace(mixed, n_head=mixed.n_head[::-1], d_inner=mixed.d_inner[::-1])
    more = replace(mixed, n_head=(*mixed.n_head, 2), d_inner=(*mixed.d_inner, 1024))
    prefill = model.predict([mixed, turned, more]).prefill_ms.mean
    assert prefill[0] == pytest.approx(prefill[1], rel=1e-12)
    assert prefill[2] > prefill[0]


def test_deviations_say_how_far_predictions_are_from_measurements() -> None:
    noise = 0.04
    model = fitted(gpt2.SPACE, noise=noise)
    candidates = samples_of(unseen(gpt2.SPACE, 200), gpt2.SPACE, noise=noise, seed=5)
    found = model.predict([each for each, _ in candidates]).prefill_ms
    measured = np.array([cost.prefill_ms for _, cost in candidates])
    within = np.abs(found.mean / measured - 1) < 2 * found.relative_deviation
    assert 0.85 < within.mean() <= 1
    assert found.relative_deviation.mean() < 2 * noise


def test_the_error_of_samples_left_out_is_near_that_of_unseen_candidates() -> None:
    noise = 0.03
    model = fitted(gpt2.SPACE, noise=noise)
    expected = noise * (2 / np.pi) ** 0.5  # of the noise alone
    assert 0.8 * expected < model.relative_error["prefill_ms"].mean < 1.8 * expected
    assert model.relative_error["prefill_ms"].median <= model.relative_error["prefill_ms"].largest
    assert model.relative_error["peak_memory_mb"].mean < 0.002


def test_a_few_disturbed_measurements_change_predictions_little() -> None:
    """Four of sixty measured at twice their time or more; least squares alone would be off by 8 %."""
    samples = samples_of(design(gpt2.SPACE, rng=np.random.default_rng(0)), gpt2.SPACE, noise=0.02)
    for index, factor in ((3, 2.0), (20, 2.0), (41, 3.0), (55, 2.5)):
        architecture, cost = samples[index]
        samples[index] = (architecture, replace(cost, decode_ms=factor * cost.decode_ms))
    candidates = unseen(gpt2.SPACE)
    predictions = fit_costs(samples, gpt2.SPACE).predict(candidates)
    assert np.mean(errors(predictions, candidates, gpt2.SPACE, "decode_ms")) < 0.03


def test_candidates_measured_later_sharpen_the_model() -> None:
    """Whole models of differing layers join the samples; one that was learned is known better than before."""
    before = fitted(gpt2.SPACE, noise=0.02)
    candidates = unseen(gpt2.SPACE, 80)
    after = fit_costs([*before.samples, *samples_of(candidates[:40], gpt2.SPACE, noise=0.02, seed=9)], gpt2.SPACE)
    assert len(after.samples) == 100
    fresh = candidates[40:]
    assert after.predict(fresh).decode_ms.relative_deviation.mean() < (
        before.predict(fresh).decode_ms.relative_deviation.mean()
    )


def test_costs_are_what_a_frontier_holds_and_no_architectures_have_none() -> None:
    model = fitted(gpt2.SPACE)
    costs = model.predict(unseen(gpt2.SPACE, 3)).costs()
    assert [type(each) for each in costs] == [Cost] * 3
    assert model.predict([]).costs() == []


def test_one_cost_alone_is_learned_as_it_is_together_with_the_others() -> None:
    model = fitted(gpt2.SPACE, noise=0.02)
    architectures = [each for each, _ in model.samples]
    law = learn("decode_ms", architectures, [cost.decode_ms for _, cost in model.samples], gpt2.SPACE)
    candidates = unseen(gpt2.SPACE, 5)
    alone = predict("decode_ms", law, candidates, gpt2.SPACE)
    assert alone.mean.tolist() == model.predict(candidates).decode_ms.mean.tolist()


def test_too_few_samples_are_refused() -> None:
    stacks = design(gpt2.SPACE, count=5, rng=np.random.default_rng(0))
    with pytest.raises(LtsRayError, match="at least 12 measured architectures; got 5"):
        fit_costs(samples_of(stacks, gpt2.SPACE), gpt2.SPACE)
