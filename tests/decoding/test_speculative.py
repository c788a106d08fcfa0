from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from lts_ray.decoding import verifier
from lts_ray.decoding.acceptance import DraftVerdict
from lts_ray.decoding.draft_length import Adaptive, DraftCosts, FixedLength
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import GREEDY, Sampling, draw_index, probabilities
from lts_ray.decoding.speculative import Round, Statistics, speculate, tokens_of
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel
from tests.decoding.speculative_model import PROMPT, make_model

PAIRS = [(draft, "XL") for draft in ("S", "M", "L", "XL", "S,XL", "XL,S")]
PAIRS += [("S", "L"), ("L", "L"), ("S", "S,XL"), ("S,XL", "S,XL")]
LENGTHS = [
    FixedLength(0),
    FixedLength(1),
    FixedLength(3),
    FixedLength(6),
    Adaptive(costs=DraftCosts(draft=0.2, verify=(1.0, 1.1, 1.2, 1.3))),
]


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return make_model(0)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 30),
    pair=st.sampled_from(PAIRS),
    length=st.sampled_from(LENGTHS),
    shared=st.booleans(),
    max_tokens=st.integers(1, 35),
    vocabulary=st.sampled_from([None, [2, 3, 5, 7], [9]]),
    doubt=st.sampled_from([0.0, 0.5, 1.0]),
    eos_ids=st.sampled_from([(), (2,), (5,), (8,), (2, 8)]),
)
def test_greedy_gives_the_verifiers_own_tokens(
    seed: int,
    pair: tuple[str, str],
    length: FixedLength | Adaptive,
    shared: bool,
    max_tokens: int,
    vocabulary: list[int] | None,
    doubt: float,
    eos_ids: tuple[int, ...],
) -> None:
    """With 35 tokens, up to the context's end."""
    model = make_model(seed)
    draft, submodel = (model.config.submodel(each) for each in pair)
    rounds = list(
        speculate(
            model,
            PROMPT,
            draft=draft,
            submodel=submodel,
            max_tokens=max_tokens,
            length=length,
            shared=shared,
            draft_vocabulary=None if vocabulary is None else torch.tensor(vocabulary),
            doubt=doubt,
            eos_ids=eos_ids,
        )
    )
    alone = list(generate(model, PROMPT, submodel=submodel, max_tokens=max_tokens, eos_ids=eos_ids))
    assert list(tokens_of(rounds)) == alone
    assert all(each.accepted <= each.drafted for each in rounds)
    assert all(len(each.tokens) == each.accepted + 1 for each in rounds[:-1])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "sampling"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_a_verifier_that_drafts_for_itself_accepts_everything(
    model: MatFormer, sampling: Sampling, shared: bool
) -> None:
    universal = model.config.universal
    rounds = list(
        speculate(
            model,
            PROMPT,
            draft=universal,
            submodel=universal,
            max_tokens=31,
            length=4,
            shared=shared,
            sampling=sampling,
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert [(each.drafted, each.accepted, len(each.tokens)) for each in rounds] == [(0, 0, 1)] + [(4, 4, 5)] * 6


def test_a_seed_gives_the_same_response(model: MatFormer) -> None:
    def run(seed: int) -> list[int]:
        return list(
            tokens_of(
                speculate(
                    model,
                    PROMPT,
                    draft=model.config.trained["S"],
                    submodel=model.config.universal,
                    max_tokens=30,
                    length=3,
                    sampling=Sampling(temperature=1.5, top_p=0.9),
                    generator=torch.Generator().manual_seed(seed),
                )
            )
        )

    assert run(1) == run(1) != run(2)


VOCABULARY = 6
RESPONSES = 800


def exact_responses(model: MatFormer, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The verifier's probability of every response's first three tokens, by enumeration."""
    every = list(product(range(VOCABULARY), repeat=3))
    tokens = torch.tensor([[*PROMPT, *response] for response in every])
    with torch.inference_mode():
        logits = model(tokens, submodel=model.config.universal)[:, len(PROMPT) - 1 : -1]
        p = probabilities(logits, sampling).double()  # [216, 3, 6]
    chances = p.gather(-1, tokens[:, len(PROMPT) :, None]).prod(1)[:, 0]
    return dict(zip(every, (chances / chances.sum()).tolist(), strict=True))


def p_value(sampling: Sampling, *, shared: bool, vocabulary: list[int] | None = None, doubt: float = 0.0) -> float:
    """Chi-square of sampled responses, whose second and third token are drafted; the rare ones are one class.

    The drafter has a single neuron, and so another distribution than the verifier: see the test that follows.
    """
    model = make_model(3, vocab_size=VOCABULARY, widths=(24,))
    generator = torch.Generator().manual_seed(0)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(RESPONSES):
        rounds = speculate(
            model,
            PROMPT,
            draft=Submodel((1,)),
            submodel=model.config.universal,
            max_tokens=4,  # the prompt gives the first, and the verifier itself the last
            length=2,
            shared=shared,
            draft_vocabulary=None if vocabulary is None else torch.tensor(vocabulary),
            doubt=doubt,
            sampling=sampling,
            generator=generator,
        )
        counts[tuple(tokens_of(rounds))[:3]] += 1
    exact = exact_responses(model, sampling)
    assert all(exact[each] > 0 for each in counts)
    common = [each for each, chance in exact.items() if chance * RESPONSES >= 5]
    expected = [exact[each] * RESPONSES for each in common]
    observed = [counts[each] for each in common]
    rare = RESPONSES - sum(expected)
    if rare > 1:
        expected.append(rare)
        observed.append(RESPONSES - sum(observed))
    assert len(expected) > 10
    scale = sum(observed) / sum(expected)
    return float(chisquare(observed, [each * scale for each in expected]).pvalue)


CASES = {
    "shared": {"sampling": Sampling(temperature=1.0), "shared": True},
    "separate, top_p": {"sampling": Sampling(temperature=1.5, top_p=0.9), "shared": False},
    "draft vocabulary, doubt": {
        "sampling": Sampling(temperature=1.5),
        "shared": True,
        "vocabulary": [0, 3],
        "doubt": 0.7,
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_samples_have_the_verifiers_distribution(case: dict[str, Any]) -> None:
    assert p_value(**case) > 0.01


def test_accepting_whatever_is_drafted_would_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test before this one can fail: the drafter's distribution is not the verifier's."""

    def accept_all(drafted: list[int], q: list[Tensor], p: Tensor, generator: torch.Generator) -> DraftVerdict:
        return DraftVerdict(accepted=len(drafted), token=draw_index(p[-1], generator))

    monkeypatch.setattr(verifier, "accept_sampled", accept_all)
    assert p_value(**CASES["shared"]) < 1e-6


def test_the_draft_ends_where_the_drafter_is_in_doubt(model: MatFormer) -> None:
    options = {"draft": model.config.trained["S"], "submodel": model.config.universal, "max_tokens": 20, "length": 4}
    free = Statistics.of([list(speculate(model, PROMPT, **options))])
    careful = Statistics.of([list(speculate(model, PROMPT, **options, doubt=0.5))])
    certain = Statistics.of([list(speculate(model, PROMPT, **options, doubt=1.0))])
    assert certain.drafted / certain.verifier_steps <= 1 < careful.drafted / careful.verifier_steps
    assert careful.drafted / careful.verifier_steps < free.drafted / free.verifier_steps
    assert careful.accepted_share > free.accepted_share


def test_an_adaptive_length_gives_up_a_drafter_that_never_gains(model: MatFormer) -> None:
    dear = Adaptive(costs=DraftCosts(draft=1.0, verify=(1.0, 1.5, 2.0)))
    options = {"draft": model.config.universal, "submodel": model.config.universal, "max_tokens": 12}
    assert all(not each.drafted for each in speculate(model, PROMPT, **options, length=dear))
    cheap = Adaptive(costs=DraftCosts(draft=0.1, verify=(1.0, 1.1, 1.2)))
    assert max(each.drafted for each in speculate(model, PROMPT, **options, length=cheap)) == 2


def test_statistics_leave_out_the_prompts_own_token() -> None:
    prompt = Round(tokens=(7,), drafted=0, accepted=0)
    first = [prompt, Round(tokens=(1, 2, 3), drafted=2, accepted=2), Round(tokens=(4,), drafted=2, accepted=0)]
    found = Statistics.of([first, [prompt]])
    assert found == Statistics(tokens=4, verifier_steps=2, drafted=4, accepted=2, fallen=1)
    assert (found.accepted_share, found.acceptance, found.tokens_per_step) == (0.5, 2 / 3, 2.0)
    assert Statistics.of([[prompt]]).accepted_share == Statistics.of([[prompt]]).tokens_per_step == 0.0


def test_inference_mode_does_not_leak_to_the_caller_between_rounds(model: MatFormer) -> None:
    universal = model.config.universal
    rounds = speculate(model, PROMPT, draft=universal, submodel=universal, max_tokens=4, length=1)
    next(rounds)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 36}, "context of 40"),
        ({"length": -1}, "got -1"),
        ({"doubt": 1.5}, "got 1.5"),
        ({"draft_vocabulary": torch.tensor([3, 11])}, "from 0 to 10"),
        ({"draft_vocabulary": torch.tensor([3, 3])}, "twice"),
        ({"draft": Submodel((1,))}, "2 layers"),
        ({"draft": Submodel((1, 4)), "submodel": Submodel((16, 3))}, "1,4 is wider than its verifier 16,3"),
    ],
    ids=["context", "length", "doubt", "unknown token", "token twice", "submodel", "wider in one layer"],
)
def test_what_cannot_be_is_refused_before_the_first_round(
    model: MatFormer, wrong: dict[str, Any], message: str
) -> None:
    universal = model.config.universal
    options = {"draft": universal, "submodel": universal, "max_tokens": 4, "length": 1, **wrong}
    with pytest.raises(LtsRayError, match=message):
        speculate(model, PROMPT, **options)
