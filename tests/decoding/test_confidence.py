from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lts_ray.decoding.confidence import Confidence, Routed, decode_with_confidence
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model

PROMPT = [3, 1, 4, 1, 5]
NEVER, ALWAYS = Confidence(threshold=0.0), Confidence(threshold=1.1)
SOMETIMES = Confidence(threshold=0.5)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    model = make_model(seed=3, vocab_size=40).double()
    with torch.no_grad():
        model.norm.weight.mul_(4)  # sure of some tokens
    return model


def route(model: MatFormer, confidence: Confidence, **options: Any) -> list[Routed]:
    trained = model.config.trained
    options = {"small": trained["S"], "large": trained["XL"], "max_tokens": 30, **options}
    return list(decode_with_confidence(model, PROMPT, confidence=confidence, **options))


def test_margin_and_entropy_are_those_of_the_distribution() -> None:
    """Margins 0.2 and 0.97, entropies in closed form: a threshold beside one tells which side it is on."""
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.98, 0.01, 0.01]]).log() + 7

    def unsure(measure: Any, threshold: float) -> list[bool]:
        return list(Confidence(measure=measure, threshold=threshold).is_unsure(logits).tolist())

    assert [unsure("margin", at) for at in (0.199, 0.201, 0.969, 0.971)] == [
        [False, False],
        [True, False],
        [True, False],
        [True, True],
    ]
    wide, narrow = (-sum(p * math.log(p) for p in row) for row in ((0.5, 0.3, 0.2), (0.98, 0.01, 0.01)))
    assert [unsure("entropy", at) for at in (narrow - 1e-3, narrow + 1e-3, wide - 1e-3, wide + 1e-3)] == [
        [True, True],
        [True, False],
        [True, False],
        [False, False],
    ]


def test_always_unsure_is_the_universal_model_alone(model: MatFormer) -> None:
    routed = route(model, ALWAYS)
    assert all(each.by_universal for each in routed)
    alone = generate(model, PROMPT, submodel=model.config.universal, max_tokens=30)
    assert [each.token for each in routed] == list(alone)


def test_never_unsure_is_the_small_one_behind_the_prompt(model: MatFormer) -> None:
    assert [each.by_universal for each in route(model, NEVER)] == [True] + [False] * 29
    small = model.config.trained["S"]
    same = route(model, NEVER, large=small)
    assert [each.token for each in same] == list(generate(model, PROMPT, submodel=small, max_tokens=30))


@pytest.mark.parametrize("confidence", [SOMETIMES, Confidence(measure="entropy", threshold=0.5)], ids=str)
def test_an_unsure_place_is_read_again_and_the_cache_keeps_what_was_read_last(
    model: MatFormer, confidence: Confidence
) -> None:
    """Oracle: for each token a new cache, filled place by place with the submodel that read each place last."""
    small, large = model.config.trained["S"], model.config.universal
    routed = route(model, confidence, max_tokens=16)
    assert {each.by_universal for each in routed[1:]} == {True, False}
    sequence, readers = list(PROMPT), [large] * len(PROMPT)
    for index, each in enumerate(routed):
        decided = fresh(model, sequence, readers)
        if index > 0:
            unsure = bool(confidence.is_unsure(fresh(model, sequence, [*readers[:-1], small])))
            assert unsure == each.by_universal
        assert int(decided.argmax()) == each.token
        sequence.append(each.token)
        if index + 1 < len(routed):
            readers.append(large if routed[index + 1].by_universal else small)


@torch.inference_mode()
def fresh(model: MatFormer, sequence: list[int], readers: list[Any]) -> torch.Tensor:
    cache = KVCache.empty(model.config, rows=1, length=len(sequence), dtype=torch.float64)
    for token, reader in zip(sequence, readers, strict=True):
        logits = model(torch.tensor([[token]]), submodel=reader, cache=cache)
    return logits[0, -1]


def test_the_end_token_ends_the_response_whoever_chose_it(model: MatFormer) -> None:
    tokens = [each.token for each in route(model, SOMETIMES)]
    ends = (tokens[8], tokens[6])
    first = min(map(tokens.index, ends))
    assert [each.token for each in route(model, SOMETIMES, eos_ids=ends)] == tokens[:first]


def test_a_seed_gives_the_same_response(model: MatFormer) -> None:
    def run(seed: int) -> list[Routed]:
        generator = torch.Generator().manual_seed(seed)
        return route(model, SOMETIMES, sampling=Sampling(temperature=2.0), generator=generator)

    assert run(1) == run(1) != run(2)


def test_what_cannot_be_is_refused(model: MatFormer) -> None:
    with pytest.raises(LtsRayError, match=r"confidence\.measure must be one of margin, entropy; got 'variance'"):
        Confidence(measure="variance", threshold=0.1)  # type: ignore[arg-type]
    with pytest.raises(LtsRayError, match=r"confidence\.threshold must be a finite number; got nan"):
        Confidence(threshold=math.nan)
    with pytest.raises(LtsRayError, match="context of 64"):
        route(model, NEVER, max_tokens=60)
