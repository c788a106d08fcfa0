"""GPT-2 equals transformers' where that has the shape, and its blocks layer by layer where it has not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.gpt2 import GPT2

VOCABULARY, CONTEXT = 60, 32
UNIFORM = Architecture(d_model=24, n_head=(4, 4, 4), d_inner=(40, 40, 40), d_embed=24)
MIXED = Architecture(d_model=24, n_head=(2, 8, 4), d_inner=(17, 64, 40), d_embed=24)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def their_config(architecture: Architecture, layer: int = 0) -> GPT2Config:
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=architecture.d_model,
        n_layer=architecture.n_layer,
        n_head=architecture.n_head[layer],
        n_inner=architecture.d_inner[layer],
        activation_function="gelu_new",
        attn_implementation="eager",
    )


def build(architecture: Architecture) -> GPT2:
    model = GPT2(architecture, vocab_size=VOCABULARY, context_length=CONTEXT, adaptive=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def their_block(tensors: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    """Our layer's weights by their names; their matrices are transposed."""
    names = {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.out",
        "ln_2": "feed_forward_norm",
        "mlp.c_fc": "feed_forward.up",
        "mlp.c_proj": "feed_forward.down",
    }
    found = {}
    for theirs, ours in names.items():
        weight = tensors[f"layers.{layer}.{ours}.weight"]
        found[f"{theirs}.weight"] = weight if weight.dim() == 1 else weight.T
        found[f"{theirs}.bias"] = tensors[f"layers.{layer}.{ours}.bias"]
    return found


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))


def test_transformers_computes_the_same_logits(tokens: torch.Tensor) -> None:
    ours = build(UNIFORM)
    theirs = GPT2LMHeadModel(their_config(UNIFORM)).eval()
    tensors = ours.state_dict()
    renamed = {
        "transformer.wte.weight": tensors["embedding.tables.0.weight"],
        "transformer.wpe.weight": tensors["positions.weight"],
        "transformer.ln_f.weight": tensors["norm.weight"],
        "transformer.ln_f.bias": tensors["norm.bias"],
        "lm_head.weight": tensors["embedding.tables.0.weight"],
    }
    for layer in range(UNIFORM.n_layer):
        block = their_block(tensors, layer)
        renamed |= {f"transformer.h.{layer}.{name}": value for name, value in block.items()}
    theirs.load_state_dict(renamed)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, **CLOSE)
    assert sum(ours.parameter_counts().values()) == theirs.num_parameters()


def test_layers_of_different_shape_are_transformers_blocks_one_after_another(tokens: torch.Tensor) -> None:
    ours = build(MIXED)
    tensors = ours.state_dict()
    causal = torch.full((20, 20), float("-inf")).triu(1)
    with torch.inference_mode():
        table = tensors["embedding.tables.0.weight"]
        x = table[tokens] + tensors["positions.weight"][:20]
        for layer in range(MIXED.n_layer):
            block = GPT2Block(their_config(MIXED, layer), layer_idx=layer).eval()
            block.load_state_dict(their_block(tensors, layer))
            x = block(x, attention_mask=causal)
        expected = ours.norm(x) @ table.T
        torch.testing.assert_close(ours(tokens), expected, **CLOSE)


def test_an_adaptive_model_is_a_plain_one_over_words_scaled_by_the_root_of_the_width(tokens: torch.Tensor) -> None:
    """Up to the head, which has its own tests."""
    plain = build(MIXED)
    adaptive = GPT2(MIXED, vocab_size=VOCABULARY, context_length=CONTEXT, cutoffs=(20,)).eval()
    tensors = plain.state_dict()
    tensors["embedding.tables.0.weight"] = tensors["embedding.tables.0.weight"] / 24**0.5
    adaptive.load_state_dict(tensors, strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(adaptive.hidden(tokens, None), plain.hidden(tokens, None), **CLOSE)


@pytest.mark.parametrize(
    ("d_embed", "div_val", "counts"),
    [
        (16, 4, {"embedding": 319_952 + 80_000 + 10_267 + 168 + 1_536, "head": 50_264 + 34 + 128}),
        (8, 1, {"embedding": 402_112 + 1_536, "head": 50_264 + 18}),
        (4, 1, {"embedding": 201_056 + 32 + 1_536, "head": 50_264 + 10 + 32}),
    ],
    ids=["split", "one table", "one narrow table"],
)
def test_the_parameters_are_those_of_the_published_formula(d_embed: int, div_val: int, counts: dict[str, int]) -> None:
    """By hand. Tables: 19,997 and 20,000 and 10,267 words of 16, 4 and 1 columns; projections 8 * (16 + 4 + 1)."""
    shape = Architecture(d_model=8, n_head=(2, 4), d_inner=(12, 20), d_embed=d_embed, div_val=div_val)
    with torch.device("meta"):
        model = GPT2(shape, vocab_size=50_264, context_length=192)
    assert model.parameter_counts() == {**counts, "decoder": 532 + 668 + 16}  # 328 + 17 f a layer, final norm


def test_plain_logits_need_one_table_as_wide_as_the_model() -> None:
    for change in ({"d_embed": 12}, {"div_val": 2}):
        with pytest.raises(LtsRayError, match="plain tied logits need div_val 1 and d_embed = d_model"):
            GPT2(replace(UNIFORM, **change), vocab_size=VOCABULARY, context_length=CONTEXT, adaptive=False)


def test_dropout_acts_in_training_only(tokens: torch.Tensor) -> None:
    model = GPT2(MIXED, vocab_size=VOCABULARY, context_length=CONTEXT, dropout=0.5)
    model.initialize(torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.train()
        assert not torch.equal(model(tokens), model(tokens))
        model.eval()
        torch.testing.assert_close(model(tokens), model(tokens), atol=0, rtol=0)
