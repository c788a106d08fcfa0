from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from lts_ray.decoding.acceptance import DraftVerdict, accept_greedy, accept_sampled
from lts_ray.decoding.sampling import draw_index

P = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0], [0.1, 0.1, 0.2, 0.2, 0.4]])
Q = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.4])  # nearly the reverse of P, and heaviest where P is nothing
DRAWS = 6000

Rule = Callable[[list[int], list[Tensor], Tensor, torch.Generator], DraftVerdict]


def p_value(rule: Rule) -> float:
    """Of the first token that comes out, against P[0]: chi-square."""
    generator = torch.Generator().manual_seed(0)
    counts: Counter[int] = Counter()
    for _ in range(DRAWS):
        token = draw_index(Q, generator)
        verdict = rule([token], [Q], P, generator)
        counts[token if verdict.accepted else verdict.token] += 1
    assert counts[4] == 0, "a token that the verifier never gives"
    return float(chisquare([counts[i] for i in range(4)], [DRAWS * share for share in (0.5, 0.3, 0.15, 0.05)]).pvalue)


def test_the_first_token_has_the_verifiers_distribution() -> None:
    assert p_value(accept_sampled) > 0.01


def resample_from_p(drafted: list[int], q: list[Tensor], p: Tensor, generator: torch.Generator) -> DraftVerdict:
    """Wrong: a fallen token is replaced by a draw from all of p."""
    verdict = accept_sampled(drafted, q, p, generator)
    return verdict if verdict.accepted else DraftVerdict(accepted=0, token=draw_index(p[0], generator))


def test_a_rule_that_is_nearly_right_is_told_apart() -> None:
    assert p_value(resample_from_p) < 1e-6


def test_a_token_stands_with_the_overlap_of_both_distributions() -> None:
    generator = torch.Generator().manual_seed(1)
    stood = sum(accept_sampled([draw_index(Q, generator)], [Q], P, generator).accepted for _ in range(DRAWS))
    assert stood / DRAWS == pytest.approx(float(torch.minimum(P[0], Q).sum()), abs=0.02)


def test_a_draft_from_the_verifiers_own_distribution_always_stands() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        drafted = [draw_index(row, generator) for row in P]
        verdict = accept_sampled(drafted, list(P), torch.stack([*P, Q]), generator)
        assert verdict.accepted == 2


def test_after_a_draft_that_stands_the_verifier_adds_a_token_of_its_own() -> None:
    certain = torch.eye(5)
    verdict = accept_sampled([3, 1], [certain[3], certain[1]], certain[[3, 1, 4]], torch.Generator())
    assert verdict == DraftVerdict(accepted=2, token=4)


@pytest.mark.parametrize(
    ("drafted", "expected"),
    [([], (0, 2)), ([2, 0], (2, 1)), ([2, 3], (1, 0)), ([1, 0], (0, 2))],
    ids=["nothing drafted", "all stand", "the second falls", "the first falls"],
)
def test_greedy_keeps_the_tokens_that_are_the_verifiers_own(drafted: list[int], expected: tuple[int, int]) -> None:
    logits = torch.eye(4)[[2, 0, 1]][: len(drafted) + 1]
    accepted, token = expected
    assert accept_greedy(drafted, logits) == DraftVerdict(accepted=accepted, token=token)


def test_greedy_is_sampling_from_certain_distributions() -> None:
    generator = torch.Generator().manual_seed(3)
    certain = torch.eye(3)
    for _ in range(100):
        drafted, best = (torch.randint(3, (n,), generator=generator).tolist() for n in (3, 4))
        sampled = accept_sampled(drafted, [certain[token] for token in drafted], certain[best], generator)
        assert sampled == accept_greedy(drafted, certain[best])
