from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lts_ray.cli.evaluate import evaluate as verb
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluate, evaluation_blocks
from lts_ray.evaluation.validation_loss import LOGITS_AT_ONCE, token_parts, validation_loss
from lts_ray.models.matformer.hugging_face.checkpoint import save_quantised
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix
from lts_ray.quantisation.quantised_weights import at_precision, rounded_weights
from lts_ray.text.tokenizer import load_tokenizer
from tests.conftest import make_text


@pytest.mark.parametrize(("tokens", "vocab_size"), [(1, 300), (4096, 2048), (1000, 49_152), (3, 2**23)])
def test_parts_cover_every_token_once_and_their_logits_are_few(tokens: int, vocab_size: int) -> None:
    covered = torch.arange(tokens)
    parts = [covered[part] for part in token_parts(tokens, vocab_size)]
    assert torch.cat(parts).equal(covered)
    assert max(len(part) for part in parts) * vocab_size <= max(LOGITS_AT_ONCE, vocab_size)


def test_the_loss_is_the_mean_over_tokens(universal: MatFormer) -> None:
    blocks = torch.randint(0, 300, (3, 11), generator=torch.Generator().manual_seed(3))
    submodel = universal.config.trained["M"]
    with torch.inference_mode():
        logits = universal(blocks[:, :-1], submodel=submodel)
    expected = -logits.double().log_softmax(dim=-1).gather(-1, blocks[:, 1:, None]).mean()
    assert validation_loss(universal, blocks, submodel, batch_size=2) == pytest.approx(float(expected), rel=1e-5)


def test_submodels_are_evaluated_in_the_order_asked_for(model_dir: Path, texts: Path) -> None:
    names = ["8,64,16", "XL", "0.5", "S"]
    found = evaluate(model_dir, names, text=str(texts / "*.txt"), blocks=3)
    assert [each.name for each in found] == names
    assert [each.submodel.widths for each in found] == [(8, 64, 16), (64,) * 3, (32,) * 3, (8,) * 3]
    assert all(each.tokens == 3 * 64 and each.perplexity == math.exp(each.loss) for each in found)
    assert (found[1].agreement, found[1].kl) == (1.0, 0.0)
    assert all(each.agreement < 1 and each.kl > 0 for each in found if each.name != "XL")


def test_a_submodel_of_a_precision_is_what_its_weights_stand_for(
    model_dir: Path, texts: Path, universal: MatFormer, tmp_path: Path
) -> None:
    """Also where the checkpoint says how they are rounded, and beside the universal model as it is stored."""
    shutil.copytree(model_dir, tmp_path / "model")
    quantised = rounded_weights(universal)
    quantised |= {name: QuantisedMatrix(each.codes, each.scales * 1.5) for name, each in quantised.items()}
    save_quantised(tmp_path / "model", quantised)
    asked: dict[str, Any] = {"text": str(texts / "*.txt"), "blocks": 3}
    for folder, rounded in ((model_dir, None), (tmp_path / "model", quantised)):
        found = evaluate(folder, ["M@int4", "M@int8", "M"], **asked)
        blocks = evaluation_blocks(folder, text=asked["text"], corpus=None, count=3)
        for each, precision in zip(found, ("int4", "int8", "float32"), strict=True):
            model = at_precision(universal, precision, rounded)
            assert each.loss == pytest.approx(validation_loss(model, blocks, universal.config.trained["M"]), rel=1e-5)
            assert each.submodel.precision == ("" if precision == "float32" else precision)


def test_the_verb_prints_loss_perplexity_and_consistency(
    model_dir: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb(model=model_dir, submodel=["S", "XL"], text=str(texts / "*.txt"), as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [
        ["submodel", "widths", "decoder_params", "loss_nats", "perplexity", "consistency", "kl_nats", "tokens"]
    ] * 2
    assert rows[1]["consistency"] == 1.0
    verb(model=model_dir, text=str(texts / "*.txt"))
    assert "consistency" in capsys.readouterr().out


def test_an_unknown_submodel_is_refused_before_any_text_is_read(model_dir: Path) -> None:
    with pytest.raises(LtsRayError, match="unknown submodel 'XXL'"):
        evaluate(model_dir, ["XXL"], text="no such file")


def test_what_is_behind_the_last_whole_sequence_is_left_out(model_dir: Path, tmp_path: Path) -> None:
    """But a text shorter than a sequence is one."""
    text, tokenizer = tmp_path / "text.txt", load_tokenizer(model_dir)
    for words, whole in ((100, True), (20, False)):
        text.write_text(make_text(seed=0, words=words), encoding="utf-8")
        places = len(tokenizer.encode(text.read_text(encoding="utf-8")))  # each with a next token: the end of the text
        assert (places > 64 and places % 64 > 0) == whole
        found = evaluate(model_dir, ["S"], text=str(text))
        assert found[0].tokens == (places // 64 * 64 if whole else places)


def test_the_length_of_a_sequence_can_be_chosen_within_the_context(model_dir: Path, texts: Path) -> None:
    found = evaluate(model_dir, ["S"], text=str(texts / "*.txt"), blocks=3, length=16)
    assert found[0].tokens == 3 * 16
    with pytest.raises(LtsRayError, match="context of 64"):
        evaluate(model_dir, ["S"], text=str(texts / "*.txt"), length=65)
