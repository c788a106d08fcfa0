from __future__ import annotations

from collections import Counter

import pytest
import torch

from lts_ray.decoding.sampling import GREEDY, Sampling, sample
from lts_ray.errors import LtsRayError

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(sampling: Sampling, n: int = 4000) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sample(LOGITS, sampling, generator) for _ in range(n))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert sample(LOGITS, GREEDY, torch.Generator()) == 0


def test_temperature_one_draws_from_the_models_own_distribution() -> None:
    counts = draws(Sampling(temperature=1.0))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(Sampling(temperature=1.0, top_p=top_p))) == kept


def test_the_same_seed_draws_the_same_tokens() -> None:
    sampling = Sampling(temperature=1.5, top_p=0.9)
    first, second = (
        [sample(LOGITS, sampling, generator) for _ in range(50)]
        for generator in (torch.Generator().manual_seed(7), torch.Generator().manual_seed(7))
    )
    assert first == second


def test_a_tiny_temperature_is_greedy_not_nan() -> None:
    assert sample(LOGITS * 1000, Sampling(temperature=1e-30), torch.Generator()) == 0


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_values_out_of_range_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(LtsRayError, match=next(iter(bad))):
        Sampling(**bad)
