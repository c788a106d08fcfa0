"""Heads and d_model nest as the FFN does: any prefixes are the model that would be built of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lts_ray.checkpoints.extracted import extract, extract_checkpoint
from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import check_shares
from lts_ray.models.family import GPT2, OPT, QWEN3
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, read_config, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel
from tests.runtime.reference import random_model

AXES = {"nested_heads": {"S": 0.25, "M": 0.5}, "nested_d_model": {"S": 0.5, "M": 0.5, "L": 0.75}}
SHAPE = MatFormerConfig(
    vocab_size=90, d_model=32, n_head=8, n_kv_head=4, widths=(40, 48, 40), context_length=48, **AXES
)
CONFIGS = {
    "llama": SHAPE,
    "llama-untied": replace(SHAPE, tied=False, n_kv_head=8),
    "qwen3": replace(SHAPE, family=QWEN3, head_dim=6),
    "gpt2": replace(SHAPE, family=GPT2, n_kv_head=8),
    "opt": replace(SHAPE, family=OPT, n_kv_head=8),
}
MODELS = {name: random_model(config) for name, config in CONFIGS.items()}
TOKENS = torch.randint(0, 90, (5, 9), generator=torch.Generator().manual_seed(3))
CLOSE = {"atol": 2e-4, "rtol": 2e-4}


def submodels(config: MatFormerConfig) -> st.SearchStrategy[Submodel]:
    step = config.head_step
    heads = st.tuples(*[st.integers(1, config.n_head // step).map(lambda each: each * step)] * config.n_layer)
    widths = st.tuples(*[st.integers(1, width) for width in config.widths])
    return st.builds(
        Submodel, widths, heads=st.just(()) | heads, d_model=st.just(0) | st.integers(1, config.d_model)
    ).map(config.check)


named_submodels = st.sampled_from(sorted(CONFIGS)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(submodels(CONFIGS[name]), min_size=5, max_size=5))
)


@given(named_submodels)
@settings(max_examples=40)
def test_any_prefixes_are_the_model_built_of_them(case: tuple[str, list[Submodel]]) -> None:
    model, submodel = MODELS[case[0]], case[1][0]
    small = extract(model, submodel)
    built = sum(each.numel() for each in small.parameters())
    assert model.config.parameters(submodel) == built
    assert model.config.decoder_params(submodel) == built - small.config.embedding_params
    with torch.inference_mode():
        got, expected = model(TOKENS, submodel=submodel), small(TOKENS, submodel=small.config.universal)
    torch.testing.assert_close(got, expected, **CLOSE)


@given(named_submodels)
@settings(max_examples=40)
def test_rows_of_a_mixed_batch_are_what_they_would_be_alone(case: tuple[str, list[Submodel]]) -> None:
    model, chosen = MODELS[case[0]], case[1]
    with torch.inference_mode():
        together = model(TOKENS, submodel=chosen)
        for row, submodel in enumerate(chosen):
            alone = model(TOKENS[row : row + 1], submodel=submodel)
            torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)


def test_every_axis_changes_what_is_computed() -> None:
    """Without this the tests of equality would pass on a model that ignores them."""
    model = MODELS["llama"]
    with torch.inference_mode():
        whole, *others = (
            model(TOKENS, submodel=model.config.submodel(text))
            for text in ("XL", "40/4,48/8,40/8", "40,48,40@24", "20,48,40")
        )
    for other in others:
        assert (whole - other).abs().max() > 0.05


@given(named_submodels)
@settings(max_examples=20)
def test_a_cache_token_by_token_gives_what_one_pass_gives(case: tuple[str, list[Submodel]]) -> None:
    model, chosen = MODELS[case[0]], case[1]
    cache = KVCache.empty(model.config, rows=5, length=9, dtype=torch.float32)
    with torch.inference_mode():
        steps = [model(TOKENS[:, place : place + 1], submodel=chosen, cache=cache) for place in range(9)]
        torch.testing.assert_close(torch.cat(steps, dim=1), model(TOKENS, submodel=chosen), **CLOSE)


def test_the_keys_of_heads_that_a_row_has_not_are_kept_for_wider_submodels() -> None:
    """Made of what the row has: of the first layer, the universal model's own where d_model is whole."""
    model, narrow = MODELS["llama"], SHAPE.submodel("20/2,20/2,20/2")
    held = []
    for submodel in (narrow, SHAPE.universal):
        cache = KVCache.empty(SHAPE, rows=5, length=9, dtype=torch.float32)
        with torch.inference_mode():
            model(TOKENS, submodel=submodel, cache=cache)
        held.append(cache)
    torch.testing.assert_close(held[0].keys[0], held[1].keys[0], **CLOSE)
    torch.testing.assert_close(held[0].values[0], held[1].values[0], **CLOSE)
    assert (held[0].keys.abs().sum(dim=-1) > 0).all()  # and of all the others there are some


@given(named_submodels)
def test_a_submodel_is_written_and_read_back(case: tuple[str, list[Submodel]]) -> None:
    config = CONFIGS[case[0]]
    for submodel in case[1]:
        assert config.submodel(submodel.text) == submodel
        assert Submodel.from_json(submodel.to_json()) == submodel


def test_what_is_named_whole_is_the_same_as_what_is_not_named() -> None:
    for text in ("40,48,40", "40/8,48/8,40/8", "40,48,40@32", "XL,XL,XL", "1.0@32"):
        assert SHAPE.submodel(text) == SHAPE.universal == SHAPE.trained["XL"]
    assert SHAPE.trained["S"] == Submodel((5, 6, 5), heads=(2, 2, 2), d_model=16)
    assert SHAPE.trained["L"] == Submodel((20, 24, 20), d_model=24)
    assert SHAPE.submodel("S,XL,M@20") == Submodel((5, 48, 10), heads=(2, 8, 4), d_model=20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20/3,20/2,20/2", "layer 0 can have 2, 4, 6, 8 heads; the submodel asks for 3"),
        ("20/2,20/10,20/2", "layer 1 can have 2, 4, 6, 8 heads; the submodel asks for 10"),
        ("20,20,20@33", "has a d_model of 32; the submodel asks for 33"),
        ("20,20,20@", "unknown submodel"),
        ("20,20,20@x", "unknown submodel"),
        ("20/x,20,20", "unknown submodel"),
        ("20/2,20/2", "has 2 widths, but the model has 3 layers"),
    ],
)
def test_what_the_model_does_not_have_is_one_line(text: str, message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        SHAPE.submodel(text)


@pytest.mark.parametrize("text", ["20/2,20/2,20/2", "20,20,20@16"])
def test_axes_that_do_not_nest_are_refused_by_name(text: str) -> None:
    plain = replace(SHAPE, nested_heads=None, nested_d_model=None)
    with pytest.raises(LtsRayError, match=r"do(es)? not nest"):
        plain.submodel(text)


@pytest.mark.parametrize(
    ("given_shares", "message"),
    [
        ({"S": 0.5, "M": 0.25}, "do not shrink"),
        ({"XL": 0.5}, "end at 1"),
        ({"tiny": 0.5}, "unknown granularities tiny; known: S, M, L, XL"),
        ({"S": "half"}, "fractions by granularity"),
        ([0.5], "fractions by granularity"),
        ({"S": 0}, "do not shrink"),
    ],
    ids=str,
)
def test_shares_that_do_not_nest_are_refused(given_shares: object, message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        check_shares(given_shares, SHAPE.granularities, what="nested_heads")


def test_a_submodel_that_is_alike_in_all_layers_is_one_that_transformers_loads(tmp_path: Path) -> None:
    save_checkpoint(MODELS["llama"], tmp_path / "model")
    extracted = extract_checkpoint(tmp_path / "model", "20/4,20/4,20/4@24", tmp_path / "small")
    assert extracted.loads == "plain transformers loads it"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    with torch.inference_mode():
        expected = MODELS["llama"](TOKENS, submodel=extracted.submodel)
        torch.testing.assert_close(theirs(TOKENS).logits, expected, **CLOSE)


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("text", ["XL", "S", "20/2,8/8,30/4@20", "40/4,48/8,40/4"])
def test_checkpoints_keep_every_axis(name: str, text: str, tmp_path: Path) -> None:
    """Of the universal model its shares; of a submodel its heads, also in families that have no words for them."""
    model = extract(MODELS[name], CONFIGS[name].submodel(text)) if text != "XL" else MODELS[name]
    save_checkpoint(model, tmp_path / "model")
    again = load_checkpoint(tmp_path / "model").model
    assert again.config.trained == model.config.trained
    assert again.config.parameters(again.config.universal) == model.config.parameters(model.config.universal)
    with torch.inference_mode():
        got, expected = (each(TOKENS, submodel=each.config.universal) for each in (again, model))
    torch.testing.assert_close(got, expected, **CLOSE)
    assert read_config(tmp_path / "model")[0].nested_heads == model.config.nested_heads


def test_submodels_of_other_heads_share_no_pass() -> None:
    with pytest.raises(LtsRayError, match="share no pass"):
        MODELS["llama"].fan_out(TOKENS, [SHAPE.trained["S"], SHAPE.universal])
    assert isinstance(MODELS["llama"], MatFormer)
