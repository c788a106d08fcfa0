from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from lts_ray.decoding.sampler import Sampler
from lts_ray.decoding.sampling import DRAWN_AHEAD, Sampling, draw_share, sample
from lts_ray.pick import GREEDY_PICK, Pick

VOCABULARY = 50
PROMPT = (3, 7, 7, 11)
STOPS = frozenset({0, 1})


def make(sampling: Sampling, *, seed: int = 0, **options: Any) -> Sampler:
    generator = torch.Generator().manual_seed(seed)
    return Sampler(sampling, generator=generator, prompt=PROMPT, stop_ids=STOPS, **options)


def steps(n: int = 30, *, seed: int = 0) -> torch.Tensor:
    """[n, VOCABULARY], of both signs; the stop tokens are likely."""
    logits = 2 * torch.randn(n, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits[:, list(STOPS)] += 5
    return logits


def edited(logits: torch.Tensor, sampling: Sampling, response: list[int]) -> torch.Tensor:
    """transformers' processors in vLLM's order; frequency and presence as OpenAI defines them, from a fresh count."""
    ids, scores = torch.tensor([[*PROMPT, *response]]), logits[None].clone()
    stops = MinNewTokensLengthLogitsProcessor(len(PROMPT), sampling.min_tokens, sorted(STOPS))
    scores = stops(ids, scores)
    if sampling.logit_bias:
        scores = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in sampling.logit_bias.items()])(
            ids, scores
        )
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)[0]
    for token, count in Counter(response).items():
        scores[token] -= sampling.presence_penalty + count * sampling.frequency_penalty
    return scores


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.8},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.5, "presence_penalty": -0.5},
        {"logit_bias": {5: 4.0, 11: -100.0, 49: 2.5}},
        {"min_tokens": 9},
        {
            "repetition_penalty": 1.3,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.3,
            "logit_bias": {5: 3.0, 7: -3.0},
            "min_tokens": 5,
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_those_of_transformers_processors(options: dict[str, Any], temperature: float) -> None:
    """A greedy token is the argmax of the edited logits; a drawn one what the same seed draws from them."""
    sampling = Sampling(temperature=temperature, **options)
    sampler, generator = make(sampling), torch.Generator().manual_seed(0)
    response: list[int] = []
    plain = 0
    for logits in steps():
        expected = edited(logits, sampling, response)
        plain += int(logits.argmax()) == int(expected.argmax())
        token = sampler.choose(logits).token
        assert token == sample(expected, Sampling(temperature=temperature), generator)
        response.append(token)
    assert plain < 30  # the options mattered


def test_the_logits_are_left_as_they_are() -> None:
    """They are the runtime's own memory, and other rows' log probabilities are taken from it."""
    logits = steps(1)[0]
    kept = logits.clone()
    make(Sampling(repetition_penalty=2, logit_bias={3: 5}, min_tokens=1, temperature=1, top_k=3)).choose(logits)
    assert torch.equal(logits, kept)


def test_a_penalty_counts_tokens_that_come_long_after_the_others() -> None:
    """Growing beyond the first places of the book must lose none of them."""
    sampler = make(Sampling(frequency_penalty=100.0))
    flat = torch.arange(VOCABULARY).float()
    assert [sampler.choose(flat).token for _ in range(VOCABULARY)] == list(reversed(range(VOCABULARY)))


def test_log_probabilities_are_the_models_own() -> None:
    """Whatever the temperature, the penalties and the bias make of them."""
    logits = steps(1)[0]
    sampling = Sampling(temperature=2.0, top_k=1, logit_bias={30: 100.0})
    chosen = make(sampling, top_logprobs=3).choose(logits)
    row = torch.log_softmax(logits, dim=-1)
    assert chosen.token == 30
    assert chosen.logprob == pytest.approx(float(row[30]))
    best = row.argsort(descending=True)[:3].tolist()
    assert [token for token, _ in chosen.top] == best
    assert [logprob for _, logprob in chosen.top] == pytest.approx([float(row[token]) for token in best])


def test_log_probabilities_come_only_when_they_are_asked_for() -> None:
    logits = steps(1)[0]
    assert make(Sampling()).choose(logits).logprob is None
    alone = make(Sampling(), top_logprobs=0).choose(logits)
    assert alone.logprob is not None
    assert alone.top == ()


@pytest.mark.parametrize(
    ("options", "top_logprobs", "argmax"),
    [
        ({}, None, True),
        ({"top_p": 0.5, "top_k": 3, "min_p": 0.1}, None, True),
        ({}, 0, False),
        ({"temperature": 0.1}, None, False),
        ({"presence_penalty": 0.1}, None, False),
        ({"logit_bias": {1: 1.0}}, None, False),
        ({"min_tokens": 1}, None, False),
    ],
    ids=str,
)
def test_only_a_greedy_choice_without_memory_is_an_argmax(
    options: dict[str, Any], top_logprobs: int | None, argmax: bool
) -> None:
    assert make(Sampling(**options), top_logprobs=top_logprobs).is_argmax is argmax


def test_without_edits_it_draws_what_sample_draws() -> None:
    sampling = Sampling(temperature=1.2, top_p=0.8, top_k=20)
    sampler, generator = make(sampling, seed=4), torch.Generator().manual_seed(4)
    rows = steps()
    assert [sampler.choose(row).token for row in rows] == [sample(row, sampling, generator) for row in rows]


@pytest.mark.parametrize(
    ("options", "top"),
    [
        ({}, 20),
        ({"logit_bias": dict.fromkeys(range(1024), 1.0)}, None),
        ({"repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 1.0}, None),
        ({"min_tokens": 10**6, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 1.0}, 20),
    ],
    ids=["log probabilities", "biases", "penalties", "all that cuts"],
)
def test_the_work_of_a_token_is_the_same_however_much_is_asked_for_and_however_long_the_text(
    options: dict[str, Any], top: int | None
) -> None:
    """Calls of functions, of Python's and of torch's, are counted: not one is for each bias, token or alternative."""
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def calls(prompt: int, tokens: int) -> float:
        sampler = Sampler(
            Sampling(**options),
            generator=torch.Generator(),
            prompt=range(prompt),
            stop_ids=frozenset({0, 1}),
            top_logprobs=top,
        )
        count = 0

        def watch(frame: Any, event: str, given: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            for _ in range(tokens):
                sampler.choose(logits)
        finally:
            sys.setprofile(before)
        return count / tokens

    assert calls(1500, 400) <= calls(1, 20) < 100


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 8, 29])
def test_a_sampler_takes_over_where_another_one_stood(temperature: float, n: int) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=1.2, frequency_penalty=0.5, min_tokens=12)
    logits, whole = steps(), make(sampling)
    tokens = [whole.choose(row).token for row in logits]
    resumed = make(sampling, produced=tokens[:n])
    assert [resumed.choose(row).token for row in logits[n:]] == tokens[n:]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.1}], ids=str)
def test_a_pick_takes_the_number_that_choosing_would_and_counts_the_token(options: dict[str, Any]) -> None:
    """So that tokens may be chosen now on a device, now here."""
    sampling = Sampling(min_tokens=3, **options)
    chosen, mixed = make(sampling, top_logprobs=2), make(sampling, top_logprobs=2)
    shares = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    for number, row in enumerate(steps(8)):
        expected = chosen.choose(row)
        pick = None if number == 5 else mixed.pick()
        if pick is None:
            assert number < 3 or number == 5  # stop tokens are held back before
            assert mixed.choose(row) == expected
        else:
            assert pick == Pick(draw=shares[number] if options else 0.0, logprobs=2, **options)


def test_a_pick_of_a_tiny_temperature_is_still_drawn() -> None:
    """In float32, which devices hold it in, it would be 0."""
    pick = make(Sampling(temperature=5e-324)).pick()
    assert pick is not None
    assert torch.tensor(pick.temperature, dtype=torch.float32) > 0


@pytest.mark.parametrize("option", [{"presence_penalty": 0.1}, {"logit_bias": {1: 1.0}}, {"min_tokens": 1}], ids=str)
def test_edited_logits_are_no_devices_to_pick_from_and_asking_draws_nothing(option: dict[str, Any]) -> None:
    asked, plain = make(Sampling(temperature=1.0, **option)), make(Sampling(temperature=1.0, **option))
    assert asked.pick() is None
    assert [asked.choose(row) for row in steps(4)] == [plain.choose(row) for row in steps(4)]


def test_numbers_that_are_drawn_ahead_are_those_that_single_tokens_draw() -> None:
    sampler, generator = make(Sampling(temperature=1.0)), torch.Generator().manual_seed(0)
    picks = [sampler.pick() for _ in range(2 * DRAWN_AHEAD + 1)]
    assert [pick and pick.draw for pick in picks] == [draw_share(generator) for _ in picks]


def test_a_least_number_of_tokens_edits_nothing_where_no_token_ends_the_response() -> None:
    assert Sampler(Sampling(min_tokens=9), generator=torch.Generator(), prompt=PROMPT).pick() == GREEDY_PICK
