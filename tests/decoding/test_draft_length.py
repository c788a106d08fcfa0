from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.decoding.draft_length import Adaptive, DraftCosts, FixedLength, expected_tokens
from lts_ray.errors import LtsRayError

CHEAP = DraftCosts(draft=0.2, verify=(1.0, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35))


@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.9])
def test_expected_tokens_are_the_geometric_sum(acceptance: float, length: int) -> None:
    closed = (1 - acceptance ** (length + 1)) / (1 - acceptance)
    assert expected_tokens(acceptance, length) == pytest.approx(closed)


def test_a_perfect_drafter_gives_its_tokens_and_the_verifiers() -> None:
    assert expected_tokens(1.0, 5) == 6


def test_expected_tokens_are_what_rounds_give_on_average() -> None:
    rng = np.random.default_rng(0)
    falls = rng.random((20_000, 3)) >= 0.7
    stand = np.where(falls.any(1), falls.argmax(1), 3)
    assert expected_tokens(0.7, 3) == pytest.approx(1 + stand.mean(), rel=0.02)


@given(
    acceptance=st.floats(0, 1),
    draft=st.floats(0.01, 2),
    verify=st.lists(st.floats(0.5, 4), min_size=1, max_size=8),
)
def test_the_best_length_is_the_one_of_least_time_per_token(
    acceptance: float, draft: float, verify: list[float]
) -> None:
    """Brute force over all lengths whose cost is known."""
    costs = DraftCosts(draft=draft, verify=tuple(verify))
    times = [
        (length * draft + cost) / sum(acceptance**i for i in range(length + 1)) for length, cost in enumerate(verify)
    ]
    assert times[costs.best_length(acceptance)] == pytest.approx(min(times))


def test_where_no_draft_gains_none_is_drafted() -> None:
    assert DraftCosts(draft=1.0, verify=(1.0, 1.1, 1.2)).best_length(0.99) == 0
    assert CHEAP.best_length(0.0) == 0


@given(draft=st.floats(0.05, 1.5), per_token=st.floats(0.0, 0.5))
def test_a_draft_pays_exactly_above_the_break_even(draft: float, per_token: float) -> None:
    costs = DraftCosts(draft=draft, verify=tuple(1 + per_token * length for length in range(6)))
    if costs.break_even > 1:
        assert costs.best_length(1.0) == 0
    else:
        assert costs.best_length(min(1.0, costs.break_even + 1e-6)) > 0
        assert costs.best_length(max(0.0, costs.break_even - 1e-6)) == 0


def test_one_token_breaks_even_where_its_share_pays_for_its_cost() -> None:
    assert DraftCosts(draft=0.4, verify=(1.0, 1.2)).break_even == pytest.approx(0.6)


def test_speed_is_over_plain_decoding() -> None:
    assert CHEAP.speed(0.5, 0) == 1
    assert CHEAP.speed(0.5, 2) == pytest.approx((1 + 0.5 + 0.25) / (0.4 + 1.15))
    assert DraftCosts(draft=0.4, verify=(2.0, 2.2)).speed(1.0, 1) == pytest.approx(2 * 2.0 / 2.6)


def after_rounds(rule: Adaptive, acceptance: float, rounds: int) -> list[int]:
    """Lengths that the rule chose while a drafter of this acceptance was at work."""
    rng, lengths = np.random.default_rng(0), []
    for _ in range(rounds):
        drafted = rule.tokens
        falls = rng.random(drafted) >= acceptance
        rule = rule.after(drafted=drafted, accepted=int(falls.argmax()) if falls.any() else drafted)
        lengths.append(drafted)
    return lengths


def test_the_length_grows_with_a_drafter_that_is_always_right() -> None:
    rule = Adaptive(costs=CHEAP)
    lengths = after_rounds(rule, 1.0, 40)
    assert lengths == sorted(lengths)
    assert rule.tokens < lengths[-1] == CHEAP.longest


def test_the_length_falls_to_nothing_with_a_hopeless_drafter_which_is_tried_again_now_and_then() -> None:
    lengths = after_rounds(Adaptive(costs=CHEAP), 0.0, 400)
    assert lengths[0] > 0
    assert 0.75 < lengths.count(0) / len(lengths) < 1
    assert sum(lengths[-200:]) > 0


def test_a_drafter_that_gets_better_is_found_out() -> None:
    rule = Adaptive(costs=CHEAP)
    for _ in range(50):
        rule = rule.after(drafted=rule.tokens, accepted=0)
    assert rule.acceptance < 0.4
    assert after_rounds(rule, 1.0, 200)[-1] == CHEAP.longest


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.85])
def test_the_estimate_comes_to_the_drafters_acceptance(acceptance: float) -> None:
    """Also though rounds end at the first token that falls: those behind it say nothing."""
    rule, rng = Adaptive(costs=CHEAP, memory=0.998), np.random.default_rng(1)
    for _ in range(4000):
        falls = rng.random(4) >= acceptance
        rule = rule.after(drafted=4, accepted=int(falls.argmax()) if falls.any() else 4)
    assert rule.acceptance == pytest.approx(acceptance, abs=0.03)


def test_a_fixed_length_learns_nothing() -> None:
    assert FixedLength(3).after(drafted=3, accepted=0) == FixedLength(3)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(LtsRayError, match="got -1"):
        FixedLength(-1)
    with pytest.raises(LtsRayError, match="positive"):
        DraftCosts(draft=0.1, verify=())
    with pytest.raises(LtsRayError, match="positive"):
        DraftCosts(draft=0.0, verify=(1.0,))
    with pytest.raises(LtsRayError, match="memory"):
        Adaptive(costs=CHEAP, memory=0.0)
