"""A model as a GGUF file: what others read out of it computes the same, and llama.cpp reads text as we do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lts_ray.checkpoints.gguf_writer import write_gguf
from lts_ray.decoding.plain_loop import generate
from lts_ray.errors import LtsRayError
from lts_ray.models.family import GPT2, LLAMA, MISTRAL, QWEN2, QWEN3
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.rope_scaling import RopeScaling
from lts_ray.quantisation.quantised_weights import at_precision
from lts_ray.text.tokenizer import load_tokenizer
from tests.conftest import WORDS

gguf = pytest.importorskip("gguf")

TEXT = f"In 1923 {' '.join(WORDS)}; isn't it?  Yes.\n\nNo"
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_length=16)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-untied": {"tied": False, "head_dim": 16},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500.0},
    "mistral": {"family": MISTRAL},
    "qwen2": {"family": QWEN2},
    "qwen3": {"family": QWEN3, "head_dim": 128},  # no other is read out of the file by transformers
}


def model_of(vocab_size: int = 300, **changes: Any) -> MatFormer:
    shape: dict[str, Any] = {"d_model": 32, "n_head": 4, "n_kv_head": 2, "widths": (64, 64), "context_length": 64}
    model = MatFormer(MatFormerConfig(vocab_size=vocab_size, **{**shape, **changes}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 0.5, std=0.2, generator=generator)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", list(MODELS))
def test_transformers_computes_the_same_out_of_the_file(
    name: str, model_dir: Path, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """It has a reader of its own, which turns the rotations of Llama's heads back."""
    pytest.importorskip("accelerate")
    model = model_of(**MODELS[name])
    write_gguf(model, model_dir, tmp_path / "model.gguf", precision="float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.inference_mode():
        ours = model(tokens, submodel=model.config.universal)
        if name == "llama3":  # whose frequencies it leaves in the file
            theirs.model.rotary_emb.inv_freq /= torch.tensor(
                read_tensors(tmp_path / "model.gguf")["rope_freqs.weight"].data
            )
        torch.testing.assert_close(theirs(tokens).logits, ours, atol=1e-4, rtol=1e-4)


def test_transformers_reads_text_as_we_do_out_of_the_file(model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    write_gguf(model_of(), model_dir, tmp_path / "model.gguf", precision="float16")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    ours = load_tokenizer(model_dir)
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.chat_template == ours.chat_template


@pytest.mark.parametrize(
    ("precision", "kind", "at_most"),
    [("float16", "F16", 1e-3), ("bfloat16", "BF16", 4e-3), ("int8", "Q8_0", 1 / 127), ("int4", "Q4_0", 1 / 8)],
)
def test_matrices_are_rounded_to_the_type_that_is_asked_for_and_norms_are_not(
    precision: str, kind: str, at_most: float, model_dir: Path, tmp_path: Path
) -> None:
    """at_most: the largest difference, by the largest weight."""
    model = model_of(family=QWEN2)
    write_gguf(model, model_dir, tmp_path / "model.gguf", precision=precision)
    held = read_tensors(tmp_path / "model.gguf")
    wanted = {
        "token_embd.weight": model.embed_tokens.weight,
        "blk.1.ffn_down.weight": model.get_parameter("layers.1.mlp.down_proj.weight"),
        "blk.0.attn_q.weight": model.get_parameter("layers.0.self_attn.q_proj.weight"),
        "blk.0.attn_k.bias": model.get_parameter("layers.0.self_attn.k_proj.bias"),
        "output_norm.weight": model.norm.weight,
    }
    assert len(held) == len(list(model.parameters()))
    for name, value in wanted.items():
        tensor, is_matrix = held[name], value.dim() == 2
        assert tensor.tensor_type.name == (kind if is_matrix else "F32"), name
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape)
        most = at_most * float(value.abs().max()) if is_matrix else 0
        np.testing.assert_allclose(read, value.detach().numpy(), atol=most, rtol=0, err_msg=name)


def test_rows_that_fill_no_groups_stay_in_16_bits(model_dir: Path, tmp_path: Path) -> None:
    write_gguf(model_of(widths=(50, 50)), model_dir, tmp_path / "model.gguf", precision="int8")
    kinds = {name: tensor.tensor_type.name for name, tensor in read_tensors(tmp_path / "model.gguf").items()}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": GPT2}, "the families llama, mistral, qwen2, qwen3, with silu; this model is of gpt2"),
        ({"family": replace(LLAMA, activation="gelu")}, "with silu"),
        ({"widths": (64, 32)}, "one width and number of heads for all layers; this model has 64,32"),
        ({"heads": (4, 2)}, "one width and number of heads"),
        ({"family": QWEN2, "rope_scaling": LLAMA3}, "stretched positions of Llama alone"),
    ],
)
def test_what_the_format_has_no_words_for_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], message: str, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(LtsRayError, match=message):
        write_gguf(model_of(**changes), model_dir, tmp_path / "model.gguf", precision="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "split"),
    [
        ([{"type": "Digits", "individual_digits": True}], "smollm"),
        ([{"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False}], None),
    ],
)
def test_how_words_are_split_is_named_or_refused(
    steps: list[dict[str, Any]], split: str | None, model_dir: Path, tmp_path: Path
) -> None:
    description = json.loads((model_dir / "tokenizer.json").read_text())
    last = {**description["pre_tokenizer"], "use_regex": split is not None}
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, last]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    (tmp_path / "tokenizer_config.json").write_text((model_dir / "tokenizer_config.json").read_text())
    path = tmp_path / "model.gguf"
    if split is None:
        with pytest.raises(LtsRayError, match=r"splits words as none of llama\.cpp's"):
            write_gguf(model_of(), tmp_path, path, precision="float32")
    else:
        write_gguf(model_of(), tmp_path, path, precision="float32")
        assert gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].contents() == split


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", list(MODELS))
def test_llama_cpp_reads_and_generates_the_same(name: str, precision: str, model_dir: Path, tmp_path: Path) -> None:
    """Also tokens without a text: the model has 20 embeddings more than the tokenizer has tokens."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model, ours = model_of(vocab_size=320, **MODELS[name]), load_tokenizer(model_dir)
    write_gguf(model, model_dir, tmp_path / "model.gguf", precision=precision)
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, logits_all=True, verbose=False)
    ids = ours.encode("In 1923 the nation; isn't it?  Yes.\n\nNo")
    assert theirs.tokenize(b"In 1923 the nation; isn't it?  Yes.\n\nNo", add_bos=True) == ids
    theirs.eval(ids)
    with torch.inference_mode():
        rounded = at_precision(model, precision)
        expected = rounded(torch.tensor([ids]), submodel=rounded.config.universal)[0]
    # float32: llama.cpp keeps its keys and values in 16 bits; int8: its groups' codes are not ours
    found = torch.tensor(np.array(theirs.scores[: len(ids)]))
    close = 0.02 if precision == "float32" else 0.2
    torch.testing.assert_close(found, expected, atol=close, rtol=close)
    if precision == "float32":
        continued = list(generate(model, ids, submodel=model.config.universal, max_tokens=8))
        assert continued == [token for _, token in zip(range(8), theirs.generate(ids, temp=0.0), strict=False)]
