from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET
from serve.traffic.budget_classes import BudgetClasses, Need, draw_budgets
from serve.traffic.load import MIXTURE, draw_lengths, make_load, make_prompts
from serve.traffic.traces import gamma, poisson
from tests.serve.models import tiny_menu

COSTS = StepCosts(grid=(1, 101), base=(1.0, 2.0), neuron=(0.01, 0.02), head=(0.5, 0.5), attended=0.001)
NEED = Need(costs=COSTS, option=replace(tiny_menu().universal, neurons=100), chunk_tokens=4)


def test_lengths_have_the_mixtures_medians_and_fit_the_context() -> None:
    lengths = draw_lengths(20_000, np.random.default_rng(0), context_length=4096)
    for column, name in enumerate(("prompt_tokens", "output_tokens")):
        below = [np.mean(lengths[:, column] <= getattr(kind, name)) for kind in MIXTURE]
        assert min(below) < 0.5 < max(below)
    assert np.all(lengths >= (1, 2))
    assert np.all(lengths.sum(axis=1) <= 4096)
    alone = draw_lengths(20_000, np.random.default_rng(0), context_length=4096, mixture=MIXTURE[:1])
    assert np.median(alone, axis=0) == pytest.approx((32, 48), abs=1)
    assert np.std(np.log(alone[:, 1])) == pytest.approx(0.5, abs=0.02)


def test_a_small_context_bounds_every_request() -> None:
    lengths = draw_lengths(5000, np.random.default_rng(1), context_length=64)
    assert lengths[:, 0].max() == 48
    assert lengths.sum(axis=1).max() <= 64
    assert lengths[:, 1].min() >= 2
    with pytest.raises(LtsRayError, match="context of at least 8 tokens; got 4"):
        draw_lengths(1, np.random.default_rng(1), context_length=4)


def test_the_need_of_an_idle_engine_is_the_sum_of_its_steps() -> None:
    """Prompt of 5 in chunks of 4: places 0-3 look at 1 + 2 + 3 + 4 tokens, place 4 at 5; then places 5 and 6."""
    four = 1.03 + 100 * 0.0103 + 0.010
    one = 1.0 + 100 * 0.01 + 0.5
    alone = NEED.alone(5, 3)
    assert alone.ttft_ms == pytest.approx(four + one + 0.005)
    assert alone.tpot_ms == pytest.approx(one + (0.006 + 0.007) / 2)
    assert alone.e2e_ms == pytest.approx(alone.ttft_ms + 2 * alone.tpot_ms)
    timing = NEED.timing(5, 3)
    assert timing.ttft_ms == pytest.approx(alone.ttft_ms + four + 0.5)
    assert timing.tpot_ms == pytest.approx(alone.tpot_ms + (four + 0.5) / 2)
    assert timing.e2e_ms == pytest.approx(alone.e2e_ms + four + 0.5)


def test_budgets_are_the_classes_multiples_of_the_need_and_every_kind_and_class_comes_up() -> None:
    lengths = draw_lengths(4000, np.random.default_rng(2), context_length=256)
    drawn = draw_budgets(lengths, np.random.default_rng(3), need=NEED, classes=BudgetClasses())
    shares = {klass: np.mean([each == klass for each, _ in drawn]) for klass in ("tight", "medium", "loose", "none")}
    assert all(share == pytest.approx(0.25, abs=0.035) for share in shares.values())  # five deviations
    assert {tuple(budget.items()) for klass, budget in drawn if klass == "tight"} == {
        ("ttft", "tpot"), ("e2e",), ("tpot",), ("ttft", "e2e"),
    }  # fmt: skip
    for (klass, budget), (prompt, output) in zip(drawn[:200], lengths[:200], strict=True):
        if klass == "none":
            assert budget == NO_BUDGET
            continue
        need = NEED.timing(int(prompt), int(output))
        multiple = {"tight": 2.0, "medium": 4.0, "loose": 8.0}[klass]
        assert all(
            limit == pytest.approx(multiple * getattr(need, f"{kind}_ms")) for kind, limit in budget.items().items()
        )


def test_classes_that_do_not_grow_are_refused() -> None:
    with pytest.raises(LtsRayError, match="growing multiples above 0; got 2, 2, 8"):
        BudgetClasses(tight=2, medium=2, loose=8)


def test_a_load_is_its_seeds_and_the_nth_request_is_the_same_at_every_rate() -> None:
    def load(rate: float, seed: int = 0):  # type: ignore[no-untyped-def]
        return make_load(
            poisson, rate=rate, seconds=5, seed=seed, need=NEED, context_length=64, classes=BudgetClasses()
        )

    assert load(10) == load(10)
    assert load(10) != load(10, seed=1)
    slow, fast = load(10), load(40)
    assert len(fast) > 2 * len(slow)
    for one, other in zip(slow, fast, strict=False):
        assert (one.prompt_tokens, one.output_tokens, one.klass, one.budget) == (
            other.prompt_tokens, other.output_tokens, other.klass, other.budget,
        )  # fmt: skip


def test_prompts_are_random_tokens_of_the_vocabulary_with_the_loads_lengths() -> None:
    load = make_load(gamma, rate=20, seconds=5, seed=3, need=NEED, context_length=64, classes=BudgetClasses())
    prompts = list(make_prompts(load, seed=3, vocab_size=30))
    assert [len(prompt) for prompt in prompts] == [each.prompt_tokens for each in load]
    assert {token for prompt in prompts for token in prompt} == set(range(30))
    assert prompts == list(make_prompts(load, seed=3, vocab_size=30))
