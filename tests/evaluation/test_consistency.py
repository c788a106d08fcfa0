"""Consistency against its definition, computed at once with all logits at hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.evaluation import consistency as module
from lts_ray.evaluation import validation_loss as perplexity
from lts_ray.evaluation.consistency import Consistency, Predictor, consistency
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel
from tests.conftest import make_model

MIXED = Submodel((8, 64, 16))


@pytest.fixture
def blocks() -> torch.Tensor:
    """[5, 13]: five sequences of twelve tokens and their next ones."""
    return torch.randint(0, 300, (5, 13), generator=torch.Generator().manual_seed(2))


def by_definition(model: MatFormer, submodel: Submodel, blocks: torch.Tensor) -> Consistency:
    with torch.inference_mode():
        p = functional.softmax(model(blocks[:, :-1], submodel=model.config.universal).double(), dim=-1)
        q = functional.softmax(model(blocks[:, :-1], submodel=submodel).double(), dim=-1)
    return Consistency(
        loss=float(-q.gather(-1, blocks[:, 1:, None]).log().mean()),
        agreement=float((p.argmax(dim=-1) == q.argmax(dim=-1)).double().mean()),
        kl=float((p * (p / q).log()).sum(dim=-1).mean()),
    )


@pytest.mark.parametrize("logits_at_once", [1, 7 * 300, 2**22], ids=["a token", "7 tokens", "all"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_it_is_what_the_definition_says_however_the_text_is_cut(
    universal: MatFormer, blocks: torch.Tensor, logits_at_once: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", logits_at_once)
    submodels = [MIXED, *universal.config.trained.values()]
    reference = Predictor(universal, universal.config.universal)
    found = consistency(reference, [Predictor(universal, each) for each in submodels], blocks, batch_size=batch_size)
    for submodel, each in zip(submodels, found, strict=True):
        expected = by_definition(universal, submodel, blocks)
        assert each.loss == pytest.approx(expected.loss, rel=1e-5)
        assert each.agreement == expected.agreement
        assert each.kl == pytest.approx(expected.kl, rel=1e-4, abs=1e-9)
        assert each.loss == pytest.approx(validation_loss(universal, blocks, submodel), rel=1e-5)
    assert 0 < found[0].agreement < 1
    assert found[0].kl > 0.01


def test_a_model_agrees_with_itself_exactly(universal: MatFormer, blocks: torch.Tensor) -> None:
    reference = Predictor(universal, universal.config.universal)
    (each,) = consistency(reference, [reference], blocks)
    assert (each.agreement, each.kl) == (1.0, 0.0)


def test_the_divergence_is_of_the_submodel_from_the_reference_and_not_the_other_way(
    universal: MatFormer, blocks: torch.Tensor
) -> None:
    small, full = (Predictor(universal, universal.config.trained[name]) for name in ("S", "XL"))
    (forward,), (backward,) = consistency(full, [small], blocks), consistency(small, [full], blocks)
    assert forward.kl == pytest.approx(by_definition(universal, small.submodel, blocks).kl, rel=1e-4)
    assert abs(forward.kl - backward.kl) > 1e-3
    assert forward.agreement == backward.agreement


def test_models_trained_apart_are_compared_with_each_other(blocks: torch.Tensor) -> None:
    one, other = make_model(seed=0, n_layer=1), make_model(seed=1, n_layer=2)
    (each,) = consistency(Predictor(one, one.config.universal), [Predictor(other, other.config.universal)], blocks)
    assert each.loss == pytest.approx(validation_loss(other, blocks, other.config.universal), rel=1e-5)
    assert each.agreement < 0.9


def test_each_model_runs_once_for_each_batch(
    universal: MatFormer, blocks: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The universal model too: as the reference, and where it is asked for itself."""
    ran: list[tuple[Submodel, int]] = []
    hidden = Predictor.hidden

    def noted(self: Predictor, tokens: torch.Tensor) -> torch.Tensor:
        ran.append((self.submodel, len(tokens)))
        return hidden(self, tokens)

    monkeypatch.setattr(Predictor, "hidden", noted)
    told: list[tuple[int, int]] = []
    full, small = universal.config.trained["XL"], universal.config.trained["S"]
    consistency(
        Predictor(universal, full),
        [Predictor(universal, each) for each in (small, full, small)],
        blocks,
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert sorted(ran) == sorted([(full, 3), (small, 3), (full, 2), (small, 2)])
    assert told == [(3, 5), (5, 5)]


def test_many_submodels_share_the_memory_by_smaller_batches(
    universal: MatFormer, blocks: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states of all of them are kept for a batch: 2 predictors × 13 tokens × 32 numbers a block here."""
    monkeypatch.setattr(module, "HIDDEN_AT_ONCE", 2 * 13 * 32 * 2)
    told: list[int] = []
    reference = Predictor(universal, universal.config.universal)
    consistency(reference, [Predictor(universal, MIXED)], blocks, progress=lambda done, total: told.append(done))
    assert told == [2, 4, 5]


def test_no_text_is_refused(universal: MatFormer) -> None:
    reference = Predictor(universal, universal.config.universal)
    with pytest.raises(LtsRayError, match="no text"):
        consistency(reference, [reference], torch.empty(0, 9, dtype=torch.int64))
