"""A batch gives what its rows give alone, however they are sorted, padded and shared."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.evaluation.harness.completion import before_stop
from lts_ray.evaluation.harness.likelihood import Continuation, Likelihood, likelihoods
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model

MODEL = make_model(seed=5, vocab_size=12, n_layer=2, width=16)
NARROW = MODEL.config.trained["M"]


@torch.inference_mode()
def alone(model: MatFormer, text: Continuation) -> Likelihood:
    """Slow twin: the whole text, a place at a time."""
    logits = model(torch.tensor([text.tokens[:-1]]), submodel=NARROW)[0].double()
    places = range(len(text.tokens) - 1 - text.scored, len(text.tokens) - 1)
    targets = text.tokens[-text.scored :]
    nats = sum(float(logits[place].log_softmax(-1)[target]) for place, target in zip(places, targets, strict=True))
    return Likelihood(nats, all(int(logits[place].argmax()) == t for place, t in zip(places, targets, strict=True)))


@st.composite
def texts(draw: st.DrawFn) -> list[Continuation]:
    """Few tokens, so that beginnings are shared and some continuations are the likeliest."""
    tokens = st.lists(st.integers(0, 11), min_size=2, max_size=7).map(tuple)
    return [Continuation(each, draw(st.integers(1, len(each) - 1))) for each in draw(st.lists(tokens, max_size=9))]


@settings(max_examples=40)
@given(texts(), st.integers(1, 5))
def test_a_batch_gives_what_its_texts_give_alone(several: list[Continuation], batch_size: int) -> None:
    told: list[int] = []
    found = likelihoods(MODEL, NARROW, several, batch_size=batch_size, progress=told.append)
    assert sum(told) == len(several)
    for one, text in zip(found, several, strict=True):
        expected = alone(MODEL, text)
        assert one.nats == pytest.approx(expected.nats, abs=1e-5)
        assert one.is_greedy == expected.is_greedy


def test_the_likeliest_continuation_is_greedy_and_all_continuations_sum_to_one() -> None:
    choices = [Continuation((1, 2, 3, last), 1) for last in range(12)]
    found = likelihoods(MODEL, NARROW, choices)
    assert sum(torch.tensor([each.nats for each in found]).exp()) == pytest.approx(1, abs=1e-5)
    assert [each.is_greedy for each in found].count(True) == 1
    assert max(found, key=lambda each: each.nats).is_greedy


@pytest.mark.parametrize(
    ("stops", "left"), [(("\n", "b"), "a "), ((), "a bc\nd"), (("x",), "a bc\nd"), (("a",), "")], ids=str
)
def test_a_text_ends_before_the_first_of_its_stops(stops: tuple[str, ...], left: str) -> None:
    assert before_stop("a bc\nd", stops) == left
