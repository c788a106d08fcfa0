from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lts_ray.decoding.confidence import Confidence
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.routed_loss import RoutedLoss, routed_loss
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model


@pytest.fixture(scope="module")
def model() -> MatFormer:
    model = make_model(seed=3, vocab_size=40).double()
    with torch.no_grad():
        model.norm.weight.mul_(4)  # sure of some tokens
    return model


@pytest.fixture
def blocks() -> Tensor:
    return torch.randint(40, (5, 18), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def one_by_one(model: MatFormer, blocks: Tensor, confidence: Confidence) -> RoutedLoss:
    """Slow twin: a row at a time, the place truncated and run again, the universal model on a cache of its own."""
    small, large = model.config.trained["S"], model.config.universal
    losses, agreeing, kls, unsure_places = [], 0, [], 0
    for row in blocks:
        mixed, pure = (KVCache.empty(model.config, rows=1, length=17, dtype=torch.float64) for _ in range(2))
        for place, (token, target) in enumerate(pairwise(row)):
            step = token.view(1, 1)
            reference = model(step, submodel=large, cache=pure)[0, -1].log_softmax(-1)
            logits = model(step, submodel=small if place else large, cache=mixed)[0, -1]
            if place == 0:
                continue
            if bool(confidence.is_unsure(logits)):
                mixed.truncate(0, place)
                logits = model(step, submodel=large, cache=mixed)[0, -1]
                unsure_places += 1
            found = logits.log_softmax(-1)
            losses.append(-float(found[target]))
            agreeing += int(found.argmax() == reference.argmax())
            kls.append(float((reference.exp() * (reference - found)).sum()))
    n = len(losses)
    return RoutedLoss(
        loss=sum(losses) / n, agreement=agreeing / n, kl=sum(kls) / n, universal_share=unsure_places / n, tokens=n
    )


@pytest.mark.parametrize(
    "confidence", [Confidence(threshold=0.5), Confidence(measure="entropy", threshold=1.5)], ids=["margin", "entropy"]
)
def test_a_batch_gives_what_its_rows_give_one_by_one(model: MatFormer, blocks: Tensor, confidence: Confidence) -> None:
    small, large = model.config.trained["S"], model.config.universal
    found = routed_loss(model, blocks, small=small, large=large, confidence=confidence, batch_size=3)
    expected = one_by_one(model, blocks, confidence)
    assert 0.1 < expected.universal_share < 0.9
    assert (found.agreement, found.universal_share, found.tokens) == (
        expected.agreement,
        expected.universal_share,
        expected.tokens,
    )
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)  # float32 log-probabilities
    assert found.kl == pytest.approx(expected.kl, rel=1e-4)


@torch.inference_mode()
def test_always_unsure_is_the_universal_model(model: MatFormer, blocks: Tensor) -> None:
    universal = model.config.universal
    found = routed_loss(
        model, blocks, small=model.config.trained["S"], large=universal, confidence=Confidence(threshold=1.1)
    )
    logits = model(blocks[:, :-1], submodel=universal)[:, 1:]
    alone = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 2:].flatten())
    assert (found.agreement, found.universal_share, found.tokens) == (1.0, 1.0, 5 * 16)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.loss == pytest.approx(float(alone), rel=1e-5)


def test_progress_is_told_in_blocks(model: MatFormer, blocks: Tensor) -> None:
    told: list[tuple[int, int]] = []
    trained = model.config.trained
    routed_loss(
        model,
        blocks,
        small=trained["S"],
        large=trained["XL"],
        confidence=Confidence(threshold=0.0),
        batch_size=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("shape", [(0, 9), (3, 2)], ids=["no blocks", "nothing behind the first token"])
def test_no_text_is_refused(model: MatFormer, shape: tuple[int, int]) -> None:
    trained = model.config.trained
    with pytest.raises(LtsRayError, match="no text"):
        routed_loss(
            model,
            torch.zeros(shape, dtype=torch.int64),
            small=trained["S"],
            large=trained["XL"],
            confidence=Confidence(threshold=0.5),
        )
