"""Calibrating a checkpoint: the file beside the weights, and the losses that it says of each precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lts_ray.cli.quantise import quantise
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.quantisation.quantised_weights import rounded_weights


def test_a_checkpoint_gets_its_rounding_and_what_it_loses(
    model_dir: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    before = load_checkpoint(folder)
    quantise(model=folder, corpus=str(texts / "*.txt"), blocks=4, as_json=True)
    rows = {(row["submodel"], row["precision"]): row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    after = load_checkpoint(folder)
    assert after.fingerprint == before.fingerprint
    assert after.quantised is not None
    nearest = rounded_weights(after.model)
    assert any(not torch.equal(each.codes, nearest[name].codes) for name, each in after.quantised.items())
    for name, loss in before.validation_loss.items():
        assert after.validation_loss[name] == loss
        for precision in ("int8", "int4"):
            row = rows[name, precision]
            more = row["calibrated"] - row["stored"]
            assert after.validation_loss[f"{name}@{precision}"] == pytest.approx(loss + more, abs=1e-5)
            assert row["nearest"] != row["calibrated"]


def test_a_text_that_is_too_short_leaves_the_folder_as_it_was(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    (tmp_path / "short.txt").write_text("A few words alone", encoding="utf-8")
    with pytest.raises(LtsRayError, match="evaluation needs at least"):
        quantise(model=folder, corpus=str(tmp_path / "short.txt"))
    assert load_checkpoint(folder).quantised is None
