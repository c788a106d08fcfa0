"""Granularities with fewer heads and a smaller d_model train as those of the FFN do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.flops import training_flops
from lts_ray.training.learners.universal_learner import UniversalLearner
from lts_ray.training.loop import propagate
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings
from lts_ray.training.text_run import prepare_text, start_run, train_text
from tests.training.runs import tiny_settings

SHARES = {"nested_heads": {"S": 0.5, "M": 0.5}, "nested_d_model": {"S": 0.25, "M": 0.5, "L": 0.75}}
CONFIG = MatFormerConfig(vocab_size=60, d_model=32, n_head=4, n_kv_head=2, widths=(32, 32), context_length=32, **SHARES)
BLOCKS = torch.randint(0, 60, (3, 11), generator=torch.Generator().manual_seed(3))


def fresh() -> MatFormer:
    model = MatFormer(CONFIG)
    model.initialize(torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_a_joint_step_is_that_of_each_granularity_extracted(passes: str) -> None:
    """Against plain models of the extracted sizes, whose gradients are laid over the universal model's prefixes."""
    options = TrainingSettings(weights={"S": 1.0, "M": 2.0, "L": 1.0, "XL": 4.0}, passes=passes)  # type: ignore[arg-type]
    model = fresh()
    learner = UniversalLearner(model=model, objective=options.objective_of(CONFIG.granularities), passes=options.passes)
    found = propagate(learner, BLOCKS, 0, "float32")
    expected = {name: torch.zeros_like(each) for name, each in fresh().named_parameters()}
    for name, weight in (("S", 1 / 8), ("M", 2 / 8), ("L", 1 / 8), ("XL", 4 / 8)):
        small = extract(fresh(), CONFIG.trained[name]).train()
        logits = small(BLOCKS[:, :-1], submodel=small.config.universal)
        loss = functional.cross_entropy(logits.flatten(0, 1), BLOCKS[:, 1:].flatten())
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found[name], loss.detach())
        for key, parameter in small.named_parameters():
            assert isinstance(parameter.grad, Tensor)
            expected[key][tuple(slice(size) for size in parameter.shape)] += parameter.grad
    got = {name: each.grad for name, each in model.named_parameters()}
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def axes_settings(texts: Path) -> RunSettings:
    settings = tiny_settings(texts)
    return replace(settings, model=replace(settings.model, n_head=4, n_kv_head=2, **SHARES))


def test_a_run_lowers_every_granularitys_loss_and_keeps_their_shapes(texts: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    settings = start_run(axes_settings(texts), folder)
    assert RunSettings.from_json(settings.to_json()) == settings
    prepare_text(settings, folder)
    train_text(settings, folder)
    records = read_json_lines(folder.metrics, what="metrics")
    losses = [each["validation_loss"] for each in records if "validation_loss" in each]
    assert all(losses[-1][name] < losses[0][name] - 0.1 for name in ("S", "M", "L", "XL"))
    trained = load_checkpoint(folder.model).model.config.trained
    assert trained["S"].heads == (2, 2)
    assert [trained[name].d_model for name in ("S", "M", "L", "XL")] == [8, 16, 24, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nested_heads": {"S": 2}}, "model.nested_heads must be fractions that do not shrink"),
        ({"nested_d_model": {"huge": 0.5}}, "model.nested_d_model has unknown granularities huge"),
        ({"nested_heads": {"S": 0.5}, "independent": True}, "leave model.nested_heads out"),
    ],
    ids=str,
)
def test_shares_that_cannot_be_are_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        ModelSettings(**changes)  # type: ignore[arg-type]


def test_a_granularity_of_fewer_heads_and_dimensions_costs_what_its_extract_does() -> None:
    for submodel in CONFIG.trained.values():
        alone = CONFIG.extracted(submodel)
        expected = training_flops(alone, alone.universal, 10, 5)
        assert training_flops(CONFIG, submodel, 10, 5) == expected
