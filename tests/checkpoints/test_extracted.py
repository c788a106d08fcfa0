"""A submodel in 8 or 4 bits as a folder of its own: it computes what the universal model does at that precision."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.checkpoints.universal import load_universal, read_universal
from lts_ray.decoding.plain_loop import generate
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluate
from lts_ray.models.family import GPT2
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint, save_quantised
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix
from lts_ray.quantisation.quantised_weights import at_precision, rounded_weights
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.segment import Segment
from tests.checkpoints.test_gguf_writer import model_of


def logits_of(model: MatFormer, tokens: torch.Tensor, submodel: str = "XL") -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens, submodel=model.config.submodel(submodel))


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("submodel", ["S", "XL", "51,64,33"])
def test_the_folder_computes_what_the_universal_model_does(
    submodel: str, precision: str, model_dir: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Also with widths that fill neither groups of 32 nor bytes of two codes; and in 4 bits out of 8."""
    extract_checkpoint(model_dir, f"{submodel}@{precision}", tmp_path / "small")
    small = load_checkpoint(tmp_path / "small")
    assert small.quantised is not None
    assert small.model.config.precisions == (("int8", "int4") if precision == "int8" else ("int4",))
    expected = {each: logits_of(at_precision(universal, each), tokens, submodel) for each in ("int8", "int4")}
    torch.testing.assert_close(logits_of(small.model, tokens), expected[precision], atol=1e-4, rtol=0)
    coarse = at_precision(small.model, "int4", small.quantised)
    torch.testing.assert_close(logits_of(coarse, tokens), expected["int4"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", [{"family": GPT2, "tied": False}, {"tied": False}])
def test_other_shapes_too(changes: dict[str, Any], tokens: torch.Tensor, tmp_path: Path) -> None:
    model = model_of(**changes)
    save_checkpoint(model, tmp_path / "model")
    extract_checkpoint(tmp_path / "model", "L@int8", tmp_path / "small")
    small = load_checkpoint(tmp_path / "small").model
    expected = logits_of(at_precision(model, "int8"), tokens, "L")
    torch.testing.assert_close(logits_of(small, tokens), expected, atol=1e-4, rtol=0)


def test_how_the_checkpoint_is_rounded_is_kept(
    model_dir: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    nearest = rounded_weights(universal)
    quantised = {name: QuantisedMatrix(each.codes, each.scales * 1.125) for name, each in nearest.items()}
    shutil.copytree(model_dir, tmp_path / "model")
    save_quantised(tmp_path / "model", quantised)
    extract_checkpoint(tmp_path / "model", "M@int4", tmp_path / "small")
    small = load_checkpoint(tmp_path / "small").model
    expected = logits_of(at_precision(universal, "int4", quantised), tokens, "M")
    torch.testing.assert_close(logits_of(small, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("precision", "columns"), [("int8", 64), ("int4", 32)])
def test_it_holds_no_float32_copy_and_transformers_takes_it_for_no_llama(
    precision: str, columns: int, model_dir: Path, tmp_path: Path
) -> None:
    extract_checkpoint(model_dir, f"XL@{precision}", tmp_path / "small")
    held = load_file(tmp_path / "small" / "model.safetensors")
    assert all(value.dim() == 1 for value in held.values() if value.dtype == torch.float32)
    assert held["layers.1.mlp.down_proj.weight.codes"].shape == (32, columns)
    assert held["layers.1.mlp.down_proj.weight.scales"].dtype == torch.float16
    with pytest.raises(ValueError, match="lts_ray_matformer"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


def test_a_submodel_in_16_bits_is_a_plain_checkpoint(model_dir: Path, universal: MatFormer, tmp_path: Path) -> None:
    extract_checkpoint(model_dir, "S@bfloat16", tmp_path / "small")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    expected = universal.embed_tokens.weight.to(torch.bfloat16)
    torch.testing.assert_close(theirs.get_input_embeddings().weight, expected, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_folder_is_served_as_the_universal_model_is_at_that_precision(
    precision: str, model_dir: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """To the last bit: what the runtime packs is the same."""
    extract_checkpoint(model_dir, f"XL@{precision}", tmp_path / "small")
    small = load_universal(tmp_path / "small")
    runtime = build_runtime(small.model, n_blocks=4, threads=1, quantised=small.quantised)
    assert runtime.precisions == (precision,)
    whole = build_runtime(universal, n_blocks=4, threads=1, precisions=("int8", "int4"))
    asked = Segment(
        tokens=tokens[0].tolist(), start=0, blocks=(0, 1), submodel=small.model.config.universal, wants_logits=True
    )
    expected = whole.run([replace(asked, submodel=universal.config.submodel(f"XL@{precision}"))])
    assert torch.equal(runtime.run([asked]), expected)


def test_the_folder_is_evaluated_generated_from_and_extracted_from_again(
    model_dir: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    extract_checkpoint(model_dir, "XL@int8", tmp_path / "small")
    small, rounded = load_universal(tmp_path / "small").model, at_precision(universal, "int8")
    text = tmp_path / "text.txt"
    text.write_text("peace and war of the nation " * 20)
    (found,) = evaluate(tmp_path / "small", ["XL"], text=str(text), length=16)
    extract_checkpoint(tmp_path / "small", "XL", tmp_path / "again")
    (again,) = evaluate(tmp_path / "again", ["XL"], text=str(text), length=16)
    assert found.loss == pytest.approx(again.loss)
    assert read_universal(tmp_path / "again")[0].precisions == ("int8", "int4")
    asked: dict[str, Any] = {"submodel": small.config.universal, "max_tokens": 4}
    prompt = tokens[0].tolist()
    assert list(generate(small, prompt, **asked)) == list(generate(rounded, prompt, **asked))


def test_what_a_folder_cannot_run_in_is_refused(model_dir: Path, tmp_path: Path) -> None:
    extract_checkpoint(model_dir, "S@int4", tmp_path / "small")
    for precision in ("float32", "int8"):
        with pytest.raises(LtsRayError, match=f"runs in int4; the submodel asks for {precision}"):
            extract_checkpoint(tmp_path / "small", f"XL@{precision}", tmp_path / "more")


def test_damage_is_one_clear_line(model_dir: Path, tmp_path: Path) -> None:
    extract_checkpoint(model_dir, "S@int4", tmp_path / "small")
    weights, path = tmp_path / "small" / "model.safetensors", tmp_path / "small" / "config.json"
    whole, config = load_file(weights), json.loads(path.read_text())
    for name, message in (
        ("norm.weight", r"norm\.weight should be \(32,\) but is absent"),
        ("layers.0.mlp.up_proj.weight.scales", r"up_proj\.weight\.scales should be \(torch.float16, \(8, 1\)\)"),
    ):
        save_file({key: value for key, value in whole.items() if key != name}, weights)
        with pytest.raises(LtsRayError, match=message):
            load_checkpoint(tmp_path / "small")
    config["lts_ray"]["stored"] = "int2"
    path.write_text(json.dumps(config))
    with pytest.raises(LtsRayError, match="is stored in 'int2'; this version reads int8 and int4"):
        load_checkpoint(tmp_path / "small")


@pytest.mark.parametrize(("submodel", "kind"), [("S", "F32"), ("M@int8", "Q8_0"), ("XL@bfloat16", "BF16")])
def test_a_submodel_as_gguf(submodel: str, kind: str, model_dir: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    extracted = extract_checkpoint(model_dir, submodel, tmp_path / "small", as_gguf=True)
    assert extracted.loads == "llama.cpp loads it"
    (path,) = (tmp_path / "small").iterdir()
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert held["blk.0.ffn_up.weight"].tensor_type.name == kind
    assert held["blk.0.ffn_up.weight"].shape.tolist() == [32, extracted.submodel.widths[0]]
