"""Tokens chosen by the kernel, in Triton's interpreter or on a card, against those that a CPU chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lts_ray.decoding.sampler import Sampler
from lts_ray.decoding.sampling import COLDEST, Sampling, probabilities, sample
from lts_ray.pick import GREEDY_PICK, Pick
from lts_ray.runtime.triton_kernels.choose_token import choice_options, choose_token

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INFINITE, NO_NUMBER = float("inf"), float("nan")
V = 37
SMALL = {"BLOCK": 16, "STEP": 32, "N_BLOCKS": 4, "SPARE": 12, "num_warps": 1}
"""Several blocks a row, and lists that some rows' tokens do not fit into. Few sizes: a card compiles for each."""


def choose(logits: Tensor, picks: Sequence[Pick], *, tile: int = 8, **options: int) -> list[int]:
    """logits: [len(picks), V]."""
    n, vocab = logits.shape
    padded = torch.nn.functional.pad(logits, (0, -vocab % tile), value=-INFINITE).view(n, -1, tile)
    tops, ids = padded.max(-1)  # of equals the first, and what is no number before all
    ids += torch.arange(ids.shape[1]) * tile
    chosen = torch.full((n + 1,), -7, dtype=torch.int32, device=DEVICE)
    constants = choice_options(vocab, tops.shape[1]) | SMALL | options
    spare = torch.zeros(n + 1, 2, constants["SPARE"], device=DEVICE)

    def column(name: str, kind: torch.dtype) -> Tensor:
        return torch.tensor([getattr(pick, name) for pick in picks], dtype=kind, device=DEVICE)

    choose_token[(n + 1,)](
        logits.contiguous().to(DEVICE),
        tops.to(DEVICE),
        ids.int().to(DEVICE),
        torch.tensor([n], dtype=torch.int32, device=DEVICE),
        column("temperature", torch.float32),
        column("top_k", torch.int32),
        column("top_p", torch.float32),
        column("min_p", torch.float32),
        column("draw", torch.float64),
        spare,
        chosen,
        **constants,
    )
    *tokens, padding = chosen.tolist()
    assert padding == -7  # rows that are not asked for are left alone
    return tokens


def as_float32(value: float) -> float:
    """As the device holds it."""
    return float(np.float32(value))


def on_cpu(row: Tensor, sampling: Sampling, seed: int) -> int:
    return sample(row, sampling, torch.Generator().manual_seed(seed))


def picked(sampling: Sampling, seed: int) -> Pick:
    pick = Sampler(sampling, generator=torch.Generator().manual_seed(seed), prompt=()).pick()
    assert pick is not None
    return pick


def is_at_an_edge(row: Tensor, sampling: Sampling, draw: float) -> bool:
    """Whether rounding might give the draw to a neighbour."""
    bounds = probabilities(row, sampling).cumsum(0, dtype=torch.float64)
    return bool(((bounds[:-1] - draw).abs() < 1e-6).any())


LOGIT = st.sampled_from([-INFINITE, -30.0, -1.0, 0.0, 0.5, 1.0, 2.25]) | st.floats(-9, 9, width=32)
SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([COLDEST, 0.5, 1.0, 1.3, 4.0, 1e30]).map(as_float32),
    top_k=st.sampled_from([0, 1, 2, 5, 9, 30, V, 200]),
    top_p=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99999, 1.0]).map(as_float32),
    min_p=st.sampled_from([0.0, 1e-5, 0.07, 1.0]).map(as_float32),
)


@settings(max_examples=12)
@given(st.lists(LOGIT, min_size=V, max_size=V).filter(lambda row: max(row) > -INFINITE), SAMPLING, st.integers(0, 99))
def test_a_token_is_what_a_cpu_draws(row: list[float], sampling: Sampling, seed: int) -> None:
    logits = torch.tensor(row)
    pick = picked(sampling, seed)
    assume(not is_at_an_edge(logits, sampling, pick.draw))
    assert choose(logits[None], [pick]) == [on_cpu(logits, sampling, seed)]


@pytest.mark.parametrize("vocab", [V, V + 3], ids=["loads of one", "loads of four"])
def test_what_the_cuts_keep(vocab: int) -> None:
    """Of rows where that does not fit into the list, or many are equal, and where it is sought in several blocks."""
    wide = torch.linspace(1, 0, vocab)[torch.randperm(vocab, generator=torch.Generator().manual_seed(0))]
    ties = torch.tensor([2.0, 1.0, 0.0, 1.0]).repeat(vocab)[:vocab]
    rows = [
        (wide, Sampling(temperature=1.0, top_k=25, top_p=0.5), 4),  # k of more than there are tiles
        (wide, Sampling(temperature=0.125, min_p=0.03125, top_k=9, top_p=0.5), 1),
        (ties, Sampling(temperature=1.0, top_p=as_float32(0.7)), 5),  # more are as heavy as the lightest than may stay
    ]
    picks = [picked(sampling, seed) for _, sampling, seed in rows]
    assert choose(torch.stack([row for row, *_ in rows]), picks) == [on_cpu(*each) for each in rows]


@pytest.mark.parametrize(("n", "options"), [(24, {}), (8, {"top_k": 7, "top_p": 0.875})], ids=["all", "cut"])
def test_evenly_spaced_draws_give_each_token_as_often_as_it_is_likely(n: int, options: dict[str, float]) -> None:
    logits = 2 * torch.randn(V, generator=torch.Generator().manual_seed(2))
    picks = [Pick(temperature=1.0, draw=(number + 0.5) / n, **options) for number in range(n)]
    tokens = choose(logits.expand(n, V), picks)
    assert tokens == sorted(tokens)
    shares = torch.tensor(tokens).bincount(minlength=V) / n
    assert float((shares - probabilities(logits, Sampling(temperature=1.0, **options))).abs().max()) <= 1 / n


def test_greedy_takes_the_first_of_equals_and_draws_at_the_ends_take_no_token_without_mass() -> None:
    logits = torch.full((3, V), -INFINITE)
    logits[0, [9, 20, 36]], logits[0, 3] = 1.5, 1.0
    logits[1:, [5, 30]] = 0.0
    picks = [GREEDY_PICK, Pick(temperature=1.0), Pick(temperature=1.0, draw=1 - 2**-53)]
    assert choose(logits, picks) == [9, 5, 30]


def test_logits_that_are_no_numbers_give_no_token_and_leave_other_rows_alone() -> None:
    logits = torch.zeros(7, V)
    logits[0, 12], logits[1, 36], logits[2] = NO_NUMBER, INFINITE, -INFINITE
    logits[3:6], logits[6, 8] = logits[:3], 1.0
    picks = [GREEDY_PICK] * 3 + [Pick(temperature=1.0, top_p=0.5, top_k=3)] * 3 + [GREEDY_PICK]
    assert choose(logits, picks) == [-1] * 6 + [8]


@pytest.mark.skipif(DEVICE == "cpu", reason="a vocabulary of this size takes the interpreter minutes: needs a GPU")
@pytest.mark.parametrize(("vocab", "tile"), [(50_257, 64), (128_256, 16)])
def test_vocabularies_of_models(vocab: int, tile: int) -> None:
    """The token's share of the mass, on the CPU, is where the draw is: up to rounding, which may give a neighbour."""
    options = [{}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.01}, {"top_k": 2000, "top_p": 0.5}]
    rows = [(spread, option) for spread in (0.5, 4.0) for option in options]
    generator = torch.Generator().manual_seed(0)
    logits = torch.stack([spread * torch.randn(vocab, generator=generator) for spread, _ in rows])
    picks = [picked(Sampling(temperature=1.0, **option), seed) for seed, (_, option) in enumerate(rows)]
    tokens = choose(logits, picks, tile=tile, **choice_options(vocab, -(-vocab // tile)))
    for row, token, pick, (_, option) in zip(logits, tokens, picks, rows, strict=True):
        likely = probabilities(row, Sampling(temperature=1.0, **option))
        bounds = likely.cumsum(0, dtype=torch.float64)
        assert likely[token] > 0
        assert bounds[token] - likely[token] - 1e-4 <= pick.draw <= bounds[token] + 1e-4
