"""OPT equals transformers' with norms after the sublayers, with and without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.opt import OPT

VOCABULARY, CONTEXT = 60, 32
SHAPE = Architecture(d_model=24, n_head=(4, 4, 4), d_inner=(40, 40, 40), d_embed=24)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def build() -> OPT:
    model = OPT(SHAPE, vocab_size=VOCABULARY, context_length=CONTEXT)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def their_twin(ours: OPT) -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=SHAPE.d_model,
        word_embed_proj_dim=SHAPE.d_model,
        num_hidden_layers=SHAPE.n_layer,
        num_attention_heads=SHAPE.n_head[0],
        ffn_dim=SHAPE.d_inner[0],
        max_position_embeddings=2048,
        do_layer_norm_before=False,
        activation_function="relu",
    )
    tensors = ours.state_dict()
    renamed = {
        "lm_head.weight": tensors["embedding.tables.0.weight"],
        "model.decoder.embed_tokens.weight": tensors["embedding.tables.0.weight"],
        "model.decoder.embed_positions.weight": tensors["positions.weight"],
    }
    names = {
        "self_attn.out_proj": "attention.out",
        "self_attn_layer_norm": "attention_norm",
        "fc1": "feed_forward.up",
        "fc2": "feed_forward.down",
        "final_layer_norm": "feed_forward_norm",
    }
    for layer in range(SHAPE.n_layer):
        for kind in ("weight", "bias"):
            prefix = f"model.decoder.layers.{layer}"
            for theirs, mine in names.items():
                renamed[f"{prefix}.{theirs}.{kind}"] = tensors[f"layers.{layer}.{mine}.{kind}"]
            parts = tensors[f"layers.{layer}.attention.qkv.{kind}"].chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                renamed[f"{prefix}.self_attn.{letter}_proj.{kind}"] = part
    model = OPTForCausalLM(config).eval()
    model.load_state_dict(renamed)
    return model


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))


def test_transformers_computes_the_same_logits(tokens: torch.Tensor) -> None:
    ours = build()
    theirs = their_twin(ours)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, **CLOSE)
    assert sum(ours.parameter_counts().values()) == theirs.num_parameters()


def test_transformers_computes_the_same_logits_with_a_cache(tokens: torch.Tensor) -> None:
    ours = build()
    theirs = their_twin(ours)
    cache, past = ours.empty_cache(rows=3, length=20), None
    with torch.inference_mode():
        for part in tokens.split([8, 4, *[1] * 8], dim=1):
            expected = theirs(part, past_key_values=past, use_cache=True)
            past = expected.past_key_values
            torch.testing.assert_close(ours(part, cache=cache), expected.logits, **CLOSE)


def test_the_parameters_are_those_of_the_published_formula() -> None:
    """By hand: 328 + 17 f a layer and 2,050 positions of 8; a table of 50,272 words of 8; no head of its own."""
    shape = Architecture(d_model=8, n_head=(2, 4), d_inner=(12, 20), d_embed=8)
    with torch.device("meta"):
        model = OPT(shape, vocab_size=50_272, context_length=64)
    assert model.parameter_counts() == {"embedding": 402_176, "decoder": 532 + 668 + 16_400, "head": 0}


def test_what_opt_does_not_have_is_refused() -> None:
    for change in ({"d_embed": 12}, {"div_val": 2}):
        with pytest.raises(LtsRayError, match="OPT needs d_embed = d_model and div_val 1"):
            OPT(replace(SHAPE, **change), vocab_size=VOCABULARY, context_length=CONTEXT)
    with pytest.raises(LtsRayError, match="OPT has 2048 positions; a context of 2049 tokens is too long"):
        OPT(SHAPE, vocab_size=VOCABULARY, context_length=2049)
