"""T5 equals transformers' where that has the shape, and its blocks one after another where it has not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerNorm

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.position_bias import bucket_of
from lts_ray.models.backbones.t5 import T5
from lts_ray.spaces import t5_space as t5

VOCABULARY = 60
UNIFORM = Architecture(
    d_model=24, n_head=(4, 4), d_inner=(40, 40), d_embed=24, encoder=Stack(n_head=(4, 4, 4), d_inner=(40, 40, 40))
)
MIXED = Architecture(
    d_model=24,
    n_head=(2, 8, 4, 2),
    d_inner=(17, 64, 40, 24),
    d_embed=24,
    encoder=Stack(n_head=(8, 2, 8), d_inner=(40, 17, 64)),
)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
STACKS = ("encoder", "decoder")


def their_config(
    n_head: int, d_inner: int, *, n_layer: int = 1, n_decoder_layer: int = 1, is_decoder: bool = False
) -> T5Config:
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=24,
        d_kv=24 // n_head,
        d_ff=d_inner,
        num_layers=n_layer,
        num_decoder_layers=n_decoder_layer,
        num_heads=n_head,
        is_decoder=is_decoder,
        dropout_rate=0.0,
        attn_implementation="eager",
    )


def build(architecture: Architecture) -> T5:
    model = T5(architecture, vocab_size=VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def their_block(tensors: dict[str, torch.Tensor], stack: str, layer: int) -> dict[str, torch.Tensor]:
    """Our layer's weights by their names, without the position biases."""
    prefix = f"{stack}.layers.{layer}."
    last = 2 if stack == "decoder" else 1
    attentions = {"layer.0.SelfAttention": "attention"}
    norms = {"layer.0": "attention_norm", f"layer.{last}": "feed_forward_norm"}
    if stack == "decoder":
        attentions["layer.1.EncDecAttention"], norms["layer.1"] = "cross", "cross_norm"
    found = {
        f"layer.{last}.DenseReluDense.wi.weight": tensors[f"{prefix}feed_forward.up.weight"],
        f"layer.{last}.DenseReluDense.wo.weight": tensors[f"{prefix}feed_forward.down.weight"],
    }
    for theirs, ours in norms.items():
        found[f"{theirs}.layer_norm.weight"] = tensors[f"{prefix}{ours}.weight"]
    for theirs, ours in attentions.items():
        k, v = tensors[f"{prefix}{ours}.kv.weight"].chunk(2)
        q, out = tensors[f"{prefix}{ours}.q.weight"], tensors[f"{prefix}{ours}.out.weight"]
        found |= {f"{theirs}.{name}.weight": each for name, each in zip("qkvo", (q, k, v, out), strict=True)}
    return found


def their_model(ours: T5) -> T5ForConditionalGeneration:
    theirs = T5ForConditionalGeneration(their_config(4, 40, n_layer=3, n_decoder_layer=2)).eval()
    tensors = ours.state_dict()
    shared = tensors["embedding.weight"]
    renamed = {"shared.weight": shared, "lm_head.weight": shared}
    for stack, n_layer in zip(STACKS, (3, 2), strict=True):
        bias = tensors[f"{stack}.bias.tables.4.weight"]
        renamed |= {
            f"{stack}.embed_tokens.weight": shared,
            f"{stack}.final_layer_norm.weight": tensors[f"{stack}.norm.weight"],
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": bias,
        }
        for layer in range(n_layer):
            block = their_block(tensors, stack, layer)
            renamed |= {f"{stack}.block.{layer}.{name}": value for name, value in block.items()}
    theirs.load_state_dict(renamed)
    return theirs


def some_tokens(rows: int, length: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_transformers_computes_the_same_logits_and_has_as_many_parameters() -> None:
    """Long enough that the last buckets of distances are used."""
    ours = build(UNIFORM)
    theirs = their_model(ours)
    source, tokens = some_tokens(2, 150), some_tokens(2, 140, seed=2)
    with torch.inference_mode():
        expected = theirs(input_ids=source, decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours(source, tokens), expected, **CLOSE)
    counts = ours.parameter_counts()
    assert sum(counts.values()) == theirs.num_parameters()
    for name, stack in (("encoder", theirs.encoder), ("decoder", theirs.decoder)):
        assert counts[name] == sum(each.numel() for each in stack.parameters()) - theirs.shared.weight.numel()


def test_layers_of_different_shape_are_transformers_blocks_one_after_another() -> None:
    ours = build(MIXED)
    tensors = ours.state_dict()
    source, tokens = some_tokens(2, 30), some_tokens(2, 20, seed=2)
    causal = torch.full((20, 20), float("-inf")).triu(1)
    stacks = dict(zip(STACKS, reversed(MIXED.stacks), strict=True))
    with torch.inference_mode():
        encoded = None
        for name, inputs in (("encoder", source), ("decoder", tokens)):
            x = ours.embedding(inputs)
            for layer, (n_head, d_inner) in enumerate(zip(stacks[name].n_head, stacks[name].d_inner, strict=True)):
                config = their_config(n_head, d_inner, is_decoder=name == "decoder")
                block = T5Block(config, has_relative_attention_bias=True, layer_idx=layer).eval()
                bias = tensors[f"{name}.bias.tables.{n_head}.weight"]
                own = {"layer.0.SelfAttention.relative_attention_bias.weight": bias}
                block.load_state_dict({**their_block(tensors, name, layer), **own})
                mask = causal if name == "decoder" else None
                x = block(x, attention_mask=mask, encoder_hidden_states=encoded)[0]
            norm = T5LayerNorm(24)
            norm.load_state_dict({"weight": tensors[f"{name}.norm.weight"]})
            encoded = norm(x)
        expected = encoded * 24**-0.5 @ tensors["embedding.weight"].T
        torch.testing.assert_close(ours(source, tokens), expected, **CLOSE)


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
def test_offsets_are_in_the_buckets_that_transformers_puts_them_in(bidirectional: bool) -> None:
    offsets = torch.arange(-400, 401)
    expected = T5Attention._relative_position_bucket(offsets, bidirectional=bidirectional)
    assert torch.equal(bucket_of(offsets, bidirectional=bidirectional), expected)


@pytest.mark.parametrize("architecture", [UNIFORM, MIXED], ids=["uniform", "mixed"])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(architecture: Architecture) -> None:
    model, source, tokens = build(architecture), some_tokens(3, 17), some_tokens(3, 20, seed=2)
    cache = model.empty_cache(rows=3, length=20)
    with torch.inference_mode():
        for wanted in (some_tokens(3, 9, seed=3), source):  # what was read and decoded before leaves no trace
            model.read(wanted, cache)
            parts = [model.decode(part, cache) for part in tokens.split([1, 7, 3, *[1] * 9], dim=1)]
            torch.testing.assert_close(torch.cat(parts, dim=1), model(wanted, tokens), **CLOSE)
        assert cache.lengths.tolist() == [20] * 3
        cache.lengths.fill_(18)
        last = model.decode(tokens[:, 18:], cache, last_only=True)
        assert last.shape == (3, 1, VOCABULARY)
        torch.testing.assert_close(last, model(source, tokens)[:, -1:], **CLOSE)


def test_a_decoded_token_sees_all_of_the_source_and_no_later_token() -> None:
    model, source, tokens = build(MIXED), some_tokens(1, 10), some_tokens(1, 8, seed=2)
    other, later = source.clone(), tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % VOCABULARY
    later[:, 5:] = (later[:, 5:] + 1) % VOCABULARY
    with torch.inference_mode():
        logits = model(source, tokens)
        torch.testing.assert_close(model(source, later)[:, :5], logits[:, :5], **CLOSE)
        assert ((model(other, tokens) - logits).abs().amax(dim=-1) > 1e-5).all()


@pytest.mark.parametrize("architecture", [UNIFORM, MIXED], ids=["uniform", "mixed"])
def test_the_formulas_count_what_is_built(architecture: Architecture) -> None:
    with torch.device("meta"):
        model = T5(architecture, vocab_size=VOCABULARY)
    counts = model.parameter_counts()
    assert counts["encoder"] == t5.SPACE.stack_params(architecture)["encoder_params"]
    assert counts["decoder"] == t5.SPACE.stack_params(architecture)["decoder_params"]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(counts.values()) == total == t5.SPACE.count_total_params(architecture, vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": (2, 5, 4, 2)}, "the decoder's layer 1 has 5 heads for d_model 24"),
        ({"encoder": Stack(n_head=(7,), d_inner=(40,))}, "the encoder's layer 0 has 7 heads for d_model 24"),
        ({"encoder": None}, "T5 has two stacks of layers: the architecture needs an encoder"),
        ({"d_embed": 12}, "T5 needs d_embed = d_model and div_val 1"),
    ],
)
def test_what_t5_cannot_be_is_one_clear_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        T5(replace(MIXED, **change), vocab_size=VOCABULARY)  # type: ignore[arg-type]


def test_what_a_cache_cannot_take_is_one_clear_line() -> None:
    model = build(MIXED)
    cache = model.empty_cache(rows=2, length=4)
    with pytest.raises(LtsRayError, match="nothing was read yet"):
        model.decode(some_tokens(2, 1), cache)
    with torch.inference_mode():
        model.read(some_tokens(2, 5), cache)
    with pytest.raises(LtsRayError, match="5 tokens do not fit: the cache holds 4 tokens"):
        model.decode(some_tokens(2, 5), cache)
    with pytest.raises(
        LtsRayError, match="a cache of 3 rows of one length for 3 rows of tokens; got lengths \\[0, 0\\]"
    ):
        model.decode(some_tokens(3, 1), cache)
    cache.lengths[1] = 2
    with pytest.raises(LtsRayError, match="got lengths \\[0, 2\\]"):
        model.decode(some_tokens(2, 1), cache)
