"""BERT equals transformers' where that has the shape, and its layers one after another where it has not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.bert import Bert
from lts_ray.spaces import bert_space as bert

VOCABULARY, CONTEXT = 60, 32
UNIFORM = Architecture(d_model=24, n_head=(4, 4, 4), d_inner=(40, 40, 40), d_embed=24)
MIXED = Architecture(d_model=24, n_head=(2, 8, 4), d_inner=(17, 64, 40), d_embed=24)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def their_config(architecture: Architecture, layer: int = 0) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=architecture.d_model,
        num_hidden_layers=architecture.n_layer,
        num_attention_heads=architecture.n_head[layer],
        intermediate_size=architecture.d_inner[layer],
        attn_implementation="eager",
    )


def build(architecture: Architecture) -> Bert:
    model = Bert(architecture, vocab_size=VOCABULARY, context_length=CONTEXT)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def their_layer(tensors: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    """Our layer's weights by their names."""
    names = {
        "attention.output.dense": "attention.out",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
        "output.LayerNorm": "feed_forward_norm",
    }
    found = {}
    for kind in ("weight", "bias"):
        qkv = tensors[f"layers.{layer}.attention.qkv.{kind}"].chunk(3)
        for name, part in zip(("query", "key", "value"), qkv, strict=True):
            found[f"attention.self.{name}.{kind}"] = part
        for theirs, ours in names.items():
            found[f"{theirs}.{kind}"] = tensors[f"layers.{layer}.{ours}.{kind}"]
    return found


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))


def test_transformers_computes_the_same_states_and_has_as_many_parameters(tokens: torch.Tensor) -> None:
    ours = build(UNIFORM)
    theirs = BertModel(their_config(UNIFORM), add_pooling_layer=False).eval()
    tensors = ours.state_dict()
    renamed = {
        "embeddings.word_embeddings.weight": tensors["embedding.words.tables.0.weight"],
        "embeddings.position_embeddings.weight": tensors["embedding.positions.weight"],
        "embeddings.token_type_embeddings.weight": tensors["embedding.types.weight"],
        "embeddings.LayerNorm.weight": tensors["embedding.norm.weight"],
        "embeddings.LayerNorm.bias": tensors["embedding.norm.bias"],
    }
    for layer in range(UNIFORM.n_layer):
        renamed |= {f"encoder.layer.{layer}.{name}": value for name, value in their_layer(tensors, layer).items()}
    theirs.load_state_dict(renamed)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).last_hidden_state, **CLOSE)
    assert ours.parameter_counts() == {
        "embedding": sum(each.numel() for each in theirs.embeddings.parameters()),
        "encoder": sum(each.numel() for each in theirs.encoder.parameters()),
    }


def test_layers_of_different_shape_are_transformers_layers_one_after_another(tokens: torch.Tensor) -> None:
    ours = build(MIXED)
    tensors = ours.state_dict()
    with torch.inference_mode():
        x = ours.embedding(tokens)
        for layer in range(MIXED.n_layer):
            theirs = BertLayer(their_config(MIXED, layer)).eval()
            theirs.load_state_dict(their_layer(tensors, layer))
            x = theirs(x)
        torch.testing.assert_close(ours(tokens), x, **CLOSE)


def test_every_token_sees_the_first_one_and_the_last(tokens: torch.Tensor) -> None:
    model = build(MIXED)
    with torch.inference_mode():
        states = model(tokens)
        for place in (0, -1):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % VOCABULARY
            assert ((model(changed) - states).abs().amax(dim=-1) > 1e-5).all()


@pytest.mark.parametrize("architecture", [UNIFORM, MIXED], ids=["uniform", "mixed"])
def test_the_formulas_count_what_is_built(architecture: Architecture) -> None:
    with torch.device("meta"):
        model = Bert(architecture, vocab_size=VOCABULARY, context_length=CONTEXT)
    assert model.parameter_counts()["encoder"] == bert.SPACE.stack_params(architecture)["encoder_params"]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == bert.SPACE.count_total_params(architecture, vocab_size=VOCABULARY)
    assert sum(model.parameter_counts().values()) == total


@pytest.mark.parametrize(
    ("change", "context", "message"),
    [
        ({"n_head": (2, 5, 4)}, 32, "layer 1 has 5 heads for d_model 24"),
        ({"d_embed": 12}, 32, "BERT needs d_embed = d_model and div_val 1"),
        ({"div_val": 2}, 32, "BERT needs d_embed = d_model and div_val 1"),
        ({"encoder": Stack(n_head=(2,), d_inner=(40,))}, 32, "BERT has one stack of layers"),
        ({}, 513, "BERT has 512 positions; a sequence of 513 tokens is too long"),
    ],
)
def test_what_bert_cannot_be_is_one_clear_line(change: dict[str, object], context: int, message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        Bert(replace(MIXED, **change), vocab_size=VOCABULARY, context_length=context)  # type: ignore[arg-type]


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(LtsRayError, match="33 tokens do not fit: the context is 32"):
        build(MIXED)(torch.zeros(1, 33, dtype=torch.int64))
