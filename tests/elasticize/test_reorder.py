"""Importance finds the neurons that matter, and putting them first leaves the universal model as it was."""

from __future__ import annotations

import torch
from torch.nn import functional

from lts_ray.elasticize.importance import evenly, feed_forwards, neuron_importance, reorder_by_importance
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model


def make_blocks(*, count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 300, (count, 17), generator=torch.Generator().manual_seed(seed))


def test_a_score_is_the_squared_slope_of_the_loss_in_the_neurons_output() -> None:
    """Against finite differences in float64: the neuron's output is scaled a little up and down."""
    model, blocks = make_model().double(), make_blocks(count=2)
    submodel = model.config.submodel("L")
    scores = neuron_importance(model, blocks, submodel)
    assert [len(each) for each in scores] == list(submodel.widths)
    for layer, neuron in [(0, 0), (1, 7), (2, 31)]:
        column = feed_forwards(model)[layer].down_proj.weight[:, neuron]
        slopes = []
        for block in blocks:
            losses = []
            for scale in (1 + 1e-5, 1 - 1e-5):
                kept = column.detach().clone()
                with torch.no_grad():
                    column *= scale
                    logits = model(block[None, :-1], submodel=submodel)[0]
                    column.copy_(kept)
                losses.append(float(functional.cross_entropy(logits, block[1:])))
            slopes.append((losses[0] - losses[1]) / 2e-5)
        expected = sum(each**2 for each in slopes) / len(slopes)
        assert abs(float(scores[layer][neuron]) - expected) <= 1e-3 * expected


def test_reordering_leaves_the_universal_model_as_it_was_and_changes_the_smaller_ones(tokens: torch.Tensor) -> None:
    model, before = make_model(), make_model()
    reorder_by_importance(model, make_blocks())
    with torch.inference_mode():
        for name, same in (("XL", True), ("S", False)):
            submodel = model.config.submodel(name)
            difference = (model(tokens, submodel=submodel) - before(tokens, submodel=submodel)).abs().max()
            assert (difference < 1e-4) == same


def test_neurons_that_do_nothing_go_last_however_they_stood() -> None:
    """With the first half dead, the half-width model is as bad as can be; reordered, it is the universal model."""
    model = make_model()
    for ffn in feed_forwards(model):
        with torch.no_grad():
            ffn.down_proj.weight[:, : ffn.width // 2] = 0
    held_out = make_blocks(seed=9)
    universal = validation_loss(model, held_out, model.config.universal)
    half = model.config.submodel("L")
    assert abs(validation_loss(model, held_out, half) - universal) > 0.01
    reorder_by_importance(model, make_blocks())
    assert abs(validation_loss(model, held_out, half) - universal) < 1e-5


def ranked(model: MatFormer, larger: str, smaller: str) -> list[bool]:
    """Of each layer: whether, asked of `larger`, none of `smaller`'s neurons matters less than one left out."""
    scores = neuron_importance(model, make_blocks(), model.config.submodel(larger))
    widths = model.config.submodel(smaller).widths
    return [
        float(score[:width].min()) >= float(score[width:].max()) for score, width in zip(scores, widths, strict=True)
    ]


def test_each_granularity_has_what_matters_most_to_the_next_larger_one() -> None:
    """Not what matters to the universal model: sorted by that alone, the smaller ones keep others' neurons."""
    model = make_model()
    reorder_by_importance(model, make_blocks())
    for larger, smaller in (("XL", "L"), ("L", "M"), ("M", "S")):
        assert all(ranked(model, larger, smaller)), (larger, smaller)
    at_once = make_model()
    for ffn, score in zip(
        feed_forwards(at_once), neuron_importance(at_once, make_blocks(), at_once.config.universal), strict=True
    ):
        ffn.reorder(score.argsort(descending=True))
    assert all(ranked(at_once, "XL", "L"))
    assert not any(ranked(at_once, "L", "M"))
    assert not any(ranked(at_once, "M", "S"))


def test_progress_is_told_once_for_each_sequence_and_granularity() -> None:
    told = []
    reorder_by_importance(make_model(), make_blocks(count=3), progress=lambda: told.append(1))
    assert len(told) == 3 * 4


def test_examples_are_taken_evenly_from_first_to_last() -> None:
    assert evenly(30, 4).tolist() == [0, 10, 19, 29]
    assert evenly(30, 99).tolist() == list(range(30))
