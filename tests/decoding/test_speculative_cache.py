"""What the caches hold, who reads what of them, and what is therefore not computed twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lts_ray.decoding.drafter import Drafter
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.speculative import speculate
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel
from tests.decoding.speculative_model import PROMPT, make_model


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return make_model(0)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_between_rounds_the_cache_holds_the_verifiers_keys_and_values(
    model: MatFormer, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the places where the drafter had put its own; the verifier's come from one forward without a draft."""
    made: list[KVCache] = []
    empty = KVCache.empty

    def note(*args: Any, **options: Any) -> KVCache:
        made.append(empty(*args, **options))
        return made[-1]

    monkeypatch.setattr(KVCache, "empty", note)
    universal, sequence, accepted = model.config.universal, list(PROMPT), []
    rounds = speculate(
        model, PROMPT, draft=model.config.trained["S"], submodel=universal, max_tokens=30, length=3, shared=shared
    )
    for each in rounds:
        sequence += each.tokens
        accepted.append(each.accepted)
        held = len(sequence) - 1
        expected = empty(model.config, rows=1, length=held, dtype=torch.float64)
        model(torch.tensor([sequence[:-1]]), submodel=universal, cache=expected)
        assert made[0].lengths.tolist() == [held]
        torch.testing.assert_close(made[0].keys[:, :, :, :held], expected.keys)
        torch.testing.assert_close(made[0].values[:, :, :, :held], expected.values)
    assert len(made) == (1 if shared else 2)
    assert 0 < sum(accepted) < 3 * len(accepted), "some stood and some fell"


def test_a_shared_drafter_reads_the_verifiers_past_and_a_separate_one_its_own(model: MatFormer) -> None:
    """Oracle: the drafter over the verifier's cache of the past, and over its own."""
    config, small = model.config, model.config.trained["S"]
    caches = [KVCache.empty(config, rows=1, length=30, dtype=torch.float64) for _ in range(2)]
    first = most_likely(model(torch.tensor([PROMPT]), submodel=config.universal, cache=caches[0]))
    model(torch.tensor([PROMPT]), submodel=small, cache=caches[1])
    logits = [model(torch.tensor([[first]]), submodel=small, cache=cache)[0, -1] for cache in caches]
    assert not torch.allclose(*logits)
    for shared, expected in zip((True, False), logits, strict=True):
        seen = drafters_logits(model, draft=small, submodel=config.universal, max_tokens=3, length=1, shared=shared)
        torch.testing.assert_close(seen[0], expected)


def drafters_logits(model: MatFormer, **options: Any) -> list[Tensor]:
    seen, logits = [], Drafter._logits

    def note(self: Drafter, tokens: list[int]) -> Tensor:
        seen.append(logits(self, tokens))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drafter, "_logits", note)
        list(speculate(model, PROMPT, **options))
    return seen


def most_likely(logits: Tensor) -> int:
    return int(logits[0, -1].argmax())


def forwards(model: MatFormer, **options: Any) -> list[tuple[bool, int]]:
    """(by the verifier?, tokens) of every forward."""
    found, hidden = [], MatFormer.hidden

    def note(self: MatFormer, tokens: Tensor, *, submodel: Submodel, cache: KVCache) -> Tensor:
        found.append((submodel == self.config.universal, tokens.shape[1]))
        return hidden(self, tokens, submodel=submodel, cache=cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MatFormer, "hidden", note)
        list(speculate(model, PROMPT, submodel=model.config.universal, max_tokens=10, length=2, **options))
    return found


def test_nothing_is_computed_that_need_not_be() -> None:
    """A drafter that is always right: its one neuron decides for the verifier as well. Forwards, in their order."""
    model = make_model(1)
    with torch.no_grad():
        for block in model.layers:
            block.mlp.down_proj.weight[:, 1:] = 0
    small = Submodel((1, 1))
    prompt, one = (True, 5), [(False, 1), (False, 1), (True, 3)]
    assert forwards(model, draft=small, shared=True) == [prompt, *one * 3]
    # a drafter of its own cache reads the prompt first, and then what it drafted last together with the verifier's
    caught_up = [(False, 2), (False, 1), (True, 3)]
    assert forwards(model, draft=small, shared=False) == [prompt, (False, 6), *one[1:], *caught_up * 2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("vocabulary", [None, [2, 3, 5, 7]], ids=["all tokens", "some tokens"])
def test_a_draft_of_fewer_heads_and_dimensions_gives_the_verifiers_own_tokens(
    seed: int, vocabulary: list[int] | None
) -> None:
    """It leaves keys of all heads in the shared cache, over which the verifier writes its own."""
    axes = make_model(seed, shares={"nested_heads": {"S": 0.5}, "nested_d_model": {"S": 0.5, "M": 0.5}})
    config = axes.config
    assert config.trained["S"].heads
    assert config.trained["S"].d_model == 8
    rounds = speculate(
        axes,
        PROMPT,
        draft=config.trained["S"],
        submodel=config.universal,
        max_tokens=30,
        length=3,
        draft_vocabulary=None if vocabulary is None else torch.tensor(vocabulary),
    )
    found = [token for each in rounds for token in each.tokens]
    assert found == list(generate(axes, PROMPT, submodel=config.universal, max_tokens=30))
