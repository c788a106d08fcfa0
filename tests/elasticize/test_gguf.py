"""A GGUF file as a folder: it computes what transformers makes of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lts_ray.elasticize.gguf import convert_gguf
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

D_MODEL, D_FF, N_HEAD, N_KV_HEAD = 32, 64, 4, 2
TOKENS = ["<|endoftext|>", "<|im_end|>", *(chr(code) for code in range(ord("!"), ord("~") + 1)), "ab", "Ġ"]


def write_gguf(path: Path) -> None:
    """A random two-layer Llama with a byte-pair tokenizer that has no merges."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_KV_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(D_MODEL // N_HEAD)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for message in messages %}<{{ message['content'] }}>{% endfor %}")
    d_kv = D_MODEL // N_HEAD * N_KV_HEAD
    shapes = {"attn_q": (D_MODEL, D_MODEL), "attn_k": (d_kv, D_MODEL), "attn_v": (d_kv, D_MODEL)}
    shapes |= {"attn_output": (D_MODEL, D_MODEL), "ffn_gate": (D_FF, D_MODEL), "ffn_up": (D_FF, D_MODEL)}
    shapes |= {"ffn_down": (D_MODEL, D_FF), "attn_norm": (D_MODEL,), "ffn_norm": (D_MODEL,)}
    tensors = {f"blk.{layer}.{name}.weight": shape for layer in range(2) for name, shape in shapes.items()}
    tensors |= {"token_embd.weight": (len(TOKENS), D_MODEL), "output_norm.weight": (D_MODEL,)}
    for name, shape in tensors.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_folder_computes_what_transformers_makes_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    model = load_checkpoint(tmp_path / "folder").model
    assert (model.config.n_layer, model.config.widths, model.config.n_kv_head) == (2, (D_FF, D_FF), N_KV_HEAD)
    tokens = torch.randint(0, len(TOKENS), (2, 9), generator=torch.Generator().manual_seed(0))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    with torch.inference_mode():
        found = model(tokens, submodel=model.config.universal)
        torch.testing.assert_close(found, expected(tokens).logits, atol=1e-4, rtol=1e-4)
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert tokenizer.decode(tokenizer.encode("peace and war")) == "peace and war"
    assert tokenizer.eos_id == 1
    assert tokenizer.render_chat([{"role": "user", "content": "Peace?"}]) == "<Peace?>"


def test_a_file_that_is_no_gguf_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(LtsRayError, match=r"broken\.gguf cannot be read"):
        convert_gguf(tmp_path / "broken.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
