from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper
from transformers import TopPLogitsWarper as TopP

from lts_ray.decoding import sampling as sampling_module
from lts_ray.decoding.sampling import GREEDY, Sampling, draw_index, nucleus, probabilities, sample
from lts_ray.errors import LtsRayError

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(sampling: Sampling, n: int = 4000) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sample(LOGITS, sampling, generator) for _ in range(n))


def random_logits(seed: int, *shape: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert sample(LOGITS, GREEDY, torch.Generator()) == 0


def test_temperature_one_draws_from_the_models_own_distribution() -> None:
    counts = draws(Sampling(temperature=1.0))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, {0}), (0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(Sampling(temperature=1.0, top_p=top_p))) == kept


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_keeps_the_k_most_likely(top_k: int, kept: set[int]) -> None:
    assert set(draws(Sampling(temperature=1.0, top_k=top_k))) == kept


@pytest.mark.parametrize(("min_p", "kept"), [(1.0, {0}), (0.5, {0, 1}), (0.2, {0, 1, 2}), (0.01, {0, 1, 2, 3})])
def test_min_p_is_a_share_of_the_most_likely_tokens_probability(min_p: float, kept: set[int]) -> None:
    assert set(draws(Sampling(temperature=1.0, min_p=min_p))) == kept


def test_top_p_counts_the_mass_that_min_p_and_top_k_left() -> None:
    """Of 0.5, 0.3, 0.15 the first two have 0.8 / 0.95 = 0.84, and of 0.5, 0.3 the first has 0.625."""
    assert set(draws(Sampling(temperature=1.0, min_p=0.2, top_p=0.82))) == {0, 1}
    assert set(draws(Sampling(temperature=1.0, top_p=0.82))) == {0, 1, 2}
    assert set(draws(Sampling(temperature=1.0, top_k=2, top_p=0.6))) == {0}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 0.3, "top_p": 0.5},
        {"temperature": 1.0, "top_k": 7},
        {"temperature": 1.7, "top_k": 40, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 0.8, "min_p": 0.02, "top_k": 30, "top_p": 0.95},
    ],
    ids=str,
)
def test_probabilities_are_those_of_transformers(options: dict[str, Any]) -> None:
    """Its warpers, in vLLM's order; 3000 tokens, so that top_p finds its mass in the head of some rows only."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(options["temperature"])])
    if "min_p" in options:
        warpers.append(MinPLogitsWarper(options["min_p"]))
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(TopP(options["top_p"]))
    logits = torch.cat([random_logits(0, 3, 3000), random_logits(1, 3, 3000, spread=0.1)])
    expected = torch.softmax(warpers(torch.zeros(6, 1, dtype=torch.long), logits.clone()), dim=-1)
    found = probabilities(logits, Sampling(**options))
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(any),
    st.floats(0.01, 1.0),
    st.integers(1, 40),
)
def test_top_p_from_the_head_alone_is_exactly_that_of_the_whole_sort(
    weights: list[int], top_p: float, head: int
) -> None:
    """Few different weights, so that equals stand on both sides of the head's end and of the cut."""
    given = torch.tensor(weights, dtype=torch.float32) / 7
    tokens, kept = nucleus(given, top_p, head=head)
    all_tokens, all_kept = nucleus(given, top_p, head=len(weights))
    assert tokens.tolist() == all_tokens.tolist()
    assert torch.equal(kept, all_kept)
    # And by brute force: the smallest share that reaches top_p, by weight and then by id.
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    mass, smallest = 0.0, []
    for token in order:
        smallest.append(token)
        mass += float(given[token])
        if mass >= top_p * float(given.double().sum()):
            break
    assert tokens.tolist() == sorted(smallest)


def test_the_head_holds_the_mass_of_a_peaked_distribution() -> None:
    """Else the test of equality would compare the whole sort with itself at the sizes that models have."""
    weights = random_logits(0, 20_000, spread=4.0).exp()
    tokens, _ = nucleus(weights, 0.9)
    assert 100 < len(tokens) < 1024
    assert tokens.tolist() == nucleus(weights, 0.9, head=len(weights))[0].tolist()


def test_a_draw_is_in_proportion_and_never_of_weight_zero() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    counts = Counter(draw_index(weights, generator) for _ in range(8000))
    assert set(counts) == {1, 3, 5}
    assert chisquare([counts[1], counts[3], counts[5]], [1000, 3000, 4000]).pvalue > 0.01


@pytest.mark.parametrize(("share", "token"), [(0.0, 1), (0.125, 3), (0.5, 5), (1 - 2**-53, 5)])
def test_a_draw_at_the_very_edge_is_still_of_no_weight_zero(
    monkeypatch: pytest.MonkeyPatch, share: float, token: int
) -> None:
    """Each token has its share from its lower bound, itself included, up to its upper one, which is the next's."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(share, dtype=torch.float64))
    assert draw_index(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0]), torch.Generator()) == token
    assert draw_index(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0]) / 2**40, torch.Generator()) == token


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"min_p": 0.1}, {"top_p": 0.9}], ids=str)
def test_what_is_left_is_drawn_from_in_the_order_of_ids(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Whatever cut it: evenly spaced draws give tokens that never fall, each as often as it is likely."""
    shares = iter([(number + 0.5) / 200 for number in range(200)])
    monkeypatch.setattr(sampling_module, "draw_share", lambda _: next(shares))
    logits = torch.tensor([0.05, 0.3, 0.0, 0.5, 0.15]).log()
    sampling = Sampling(temperature=1.0, **options)
    tokens = [sample(logits, sampling, torch.Generator()) for _ in range(200)]
    assert tokens == sorted(tokens)
    expected = probabilities(logits, sampling) * 200
    assert torch.tensor(tokens).bincount(minlength=5).tolist() == pytest.approx(expected.tolist(), abs=1)


def test_the_same_seed_draws_the_same_tokens() -> None:
    sampling = Sampling(temperature=1.5, top_p=0.9)
    first, second = (
        [sample(LOGITS, sampling, generator) for _ in range(50)]
        for generator in (torch.Generator().manual_seed(7), torch.Generator().manual_seed(7))
    )
    assert first == second


def test_a_tiny_temperature_is_greedy_not_nan() -> None:
    for temperature in (1e-8, 1e-30, 5e-324):  # the second is 0 in float32
        for options in ({}, {"top_p": 5e-324}, {"top_p": 0.0}, {"top_k": 2}, {"min_p": 5e-324}):
            assert sample(LOGITS * 1000, Sampling(temperature=temperature, **options), torch.Generator()) == 0


def test_logits_that_are_no_numbers_are_an_error_and_no_token() -> None:
    with pytest.raises(LtsRayError, match="no numbers"):
        sample(LOGITS * float("nan"), Sampling(temperature=1.0), torch.Generator())


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": -0.1},
        {"top_p": float("nan")},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.5},
        {"min_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": float("nan")},
        {"frequency_penalty": 1e300},
        {"presence_penalty": float("inf")},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {1: 101.0}},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("nan")}},
        {"min_tokens": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(LtsRayError, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("option", [{"presence_penalty": 1.0}, {"logit_bias": {1: 1.0}}, {"min_tokens": 1}], ids=str)
def test_what_needs_the_earlier_tokens_is_refused_where_they_are_not_known(option: dict[str, Any]) -> None:
    """Ignored, it would be a response that looks right."""
    for function in (sample, lambda logits, sampling, _: probabilities(logits, sampling)):
        with pytest.raises(LtsRayError, match="penalties"):
            function(LOGITS, Sampling(temperature=1.0, **option), torch.Generator())
