"""Nested really nests: slices, masks, extracts and mixed batches agree."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.models.family import GPT2, LLAMA, Family
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.staircase import staircase
from lts_ray.submodel import Submodel
from tests.conftest import make_model

MODEL = make_model()
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
submodels = st.tuples(*[st.integers(1, width) for width in MODEL.config.widths]).map(Submodel)


@pytest.mark.parametrize("name", ["S", "M", "L", "XL", "8,64,16", "0.3"])
def test_a_submodel_computes_what_its_extract_computes(name: str, tokens: torch.Tensor) -> None:
    submodel = MODEL.config.submodel(name)  # close, not equal: a slice may take another kernel
    small = extract(MODEL, submodel)
    with torch.inference_mode():
        expected = small(tokens, submodel=small.config.universal)
        torch.testing.assert_close(MODEL(tokens, submodel=submodel), expected, **CLOSE)


@given(submodels)
@settings(max_examples=20, deadline=None)
def test_a_submodel_is_a_mask_on_the_full_ffn(submodel: Submodel) -> None:
    """Zeroing the neurons past the width, in a copy of the full model, gives the submodel."""
    masked = MatFormer(MODEL.config)
    masked.load_state_dict(MODEL.state_dict())
    tokens = torch.arange(12)[None] * 7
    with torch.no_grad():
        for block, width in zip(masked.layers, submodel.widths, strict=True):
            block.mlp.down_proj.weight[:, width:] = 0
        expected = masked(tokens, submodel=masked.config.universal)
        torch.testing.assert_close(MODEL(tokens, submodel=submodel), expected, **CLOSE)


def test_different_widths_give_different_logits(tokens: torch.Tensor) -> None:
    """Without this, the tests of equality would pass on a model that ignores the width."""
    with torch.inference_mode():
        logits = [MODEL(tokens, submodel=each) for each in MODEL.config.trained.values()]
    for a, b in pairwise(logits):
        assert (a - b).abs().max() > 0.1


@given(st.lists(submodels, min_size=2, max_size=6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_each_row_of_a_mixed_batch_gets_what_it_would_get_alone(mix: list[Submodel], cached: bool) -> None:
    tokens = torch.randint(0, 300, (len(mix), 9), generator=torch.Generator().manual_seed(len(mix)))
    cache = KVCache.empty(MODEL.config, rows=len(mix), length=16, dtype=torch.float32) if cached else None
    with torch.inference_mode():
        together = MODEL(tokens, submodel=mix, cache=cache)
        for row, submodel in enumerate(mix):
            torch.testing.assert_close(together[row], MODEL(tokens[row : row + 1], submodel=submodel)[0], **CLOSE)


def test_the_output_matrix_is_what_logits_multiply_with() -> None:
    torch.testing.assert_close(MODEL.output_weight.t(), MODEL.logits(torch.eye(MODEL.config.d_model)))


def test_fanned_out_submodels_compute_what_each_does_alone(tokens: torch.Tensor) -> None:
    chosen = list(MODEL.config.trained.values())
    with torch.inference_mode():
        together = MODEL.logits(MODEL.fan_out(tokens, chosen))
        alone = torch.cat([MODEL(tokens, submodel=each) for each in chosen])
    torch.testing.assert_close(together, alone, **CLOSE)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_staircase_equals_each_row_on_its_own_and_so_do_its_gradients(widths: list[int]) -> None:
    widths = sorted(widths, reverse=True)
    torch.manual_seed(0)
    ffn = FeedForward(8, 24).double()
    x = torch.randn(len(widths), 3, 8, dtype=torch.float64)

    def gradients(y: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(y.square().sum(), list(ffn.parameters())))

    apart = torch.cat([ffn.band(x[row : row + 1], 0, width) for row, width in enumerate(widths)])
    together = staircase(x, widths, ffn)
    torch.testing.assert_close(together, apart)
    for a, b in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["S", "XL", "8,64,16"])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(name: str, tokens: torch.Tensor) -> None:
    submodel = MODEL.config.submodel(name)
    cache = KVCache.empty(MODEL.config, rows=4, length=32, dtype=torch.float32)
    with torch.inference_mode():
        parts = [
            MODEL(tokens[:, :7], submodel=submodel, cache=cache),
            MODEL(tokens[:, 7:12], submodel=submodel, cache=cache),
        ]
        parts += [MODEL(tokens[:, i : i + 1], submodel=submodel, cache=cache) for i in range(12, 20)]
        torch.testing.assert_close(torch.cat(parts, dim=1), MODEL(tokens, submodel=submodel), **CLOSE)
    assert cache.lengths.tolist() == [20] * 4


def test_rows_of_different_length_share_a_decode_step() -> None:
    """A row that replaces a longer one must not see what that one left in the cache."""
    submodel = MODEL.config.universal
    long = torch.arange(30)[None] * 3
    short = torch.arange(5)[None] * 11
    cache = KVCache.empty(MODEL.config, rows=2, length=40, dtype=torch.float32)
    with torch.inference_mode():
        MODEL(long, submodel=submodel, cache=cache.rows(0, 1))
        MODEL(long, submodel=submodel, cache=cache.rows(1, 2))
        cache.truncate(1, 0)
        MODEL(short, submodel=submodel, cache=cache.rows(1, 2))
        step = MODEL(torch.tensor([[1], [2]]), submodel=submodel, cache=cache)
        alone = MODEL(torch.cat([short, torch.tensor([[2]])], dim=1), submodel=submodel)
    torch.testing.assert_close(step[1, -1], alone[0, -1], **CLOSE)


def test_gradients_reach_only_the_neurons_of_the_submodel(tokens: torch.Tensor) -> None:
    model = make_model()
    functional.cross_entropy(
        model(tokens, submodel=model.config.trained["S"]).flatten(0, 1), tokens.flatten()
    ).backward()
    gradient = model.layers[0].mlp.gate_proj.weight.grad
    assert gradient[:8].abs().sum() > 0
    assert gradient[8:].abs().sum() == 0


def test_too_many_tokens_are_refused(tokens: torch.Tensor) -> None:
    with pytest.raises(LtsRayError, match="context is 64 tokens"):
        MODEL(torch.zeros(1, 65, dtype=torch.int64), submodel=MODEL.config.universal)
    cache = KVCache.empty(MODEL.config, rows=4, length=10, dtype=torch.float32)
    with pytest.raises(LtsRayError, match="20 tokens do not fit: the context is 10"):
        MODEL(tokens, submodel=MODEL.config.universal, cache=cache)


@pytest.mark.parametrize(
    ("text", "widths"),
    [("XL", (64, 64, 64)), ("S", (8, 8, 8)), ("0.5", (32, 32, 32)), ("1", (64, 64, 64)), ("8,M,40", (8, 16, 40))],
)
def test_a_submodel_is_parsed_from_text(text: str, widths: tuple[int, ...]) -> None:
    assert MODEL.config.submodel(text) == Submodel(widths)


@pytest.mark.parametrize(
    "text", ["", "XXL", "0", "1.5", "-0.5", "nan", "64", "8,8", "8,8,65", "8,8,0", "8,8,x", "8,,8"]
)
def test_an_unknown_submodel_is_refused_and_never_means_the_universal_model(text: str) -> None:
    with pytest.raises(LtsRayError):
        MODEL.config.submodel(text)


def test_decoder_params_are_the_parameters_without_the_embedding() -> None:
    for submodel in (MODEL.config.universal, Submodel((8, 64, 16))):
        small = extract(MODEL, submodel)
        counted = sum(p.numel() for name, p in small.named_parameters() if not name.startswith("embed_tokens"))
        assert MODEL.config.decoder_params(submodel) == counted


@pytest.mark.parametrize(
    "change",
    [{"n_head": 5}, {"n_kv_head": 3}, {"widths": ()}, {"vocab_size": 0}, {"granularities": {"S": 0.5}}],
    ids=str,
)
def test_an_impossible_shape_is_refused(change: dict[str, object]) -> None:
    shape = {"vocab_size": 300, "d_model": 32, "n_head": 4, "n_kv_head": 2, "widths": (64,), "context_length": 64}
    with pytest.raises(LtsRayError):
        MatFormerConfig(**{**shape, **change})


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_fresh_weights_are_the_generators_alone(family: Family) -> None:
    config = replace(MODEL.config, family=family)
    built = MatFormer(config)
    built.initialize(torch.Generator().manual_seed(3))
    fresh = MatFormer.fresh(config, torch.Generator().manual_seed(3))
    torch.testing.assert_close(fresh.state_dict(), built.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(fresh.rotary, built.rotary, rtol=0, atol=0)
