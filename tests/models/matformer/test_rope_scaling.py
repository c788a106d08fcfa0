"""Rotary positions are those of transformers, whatever config.json calls them and wherever it says so."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lts_ray.models.family import LLAMA
from lts_ray.models.matformer.grouped_attention import rotary_table
from lts_ray.models.matformer.hugging_face.translators import TRANSLATORS

SHAPE: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 64,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def assert_same_rotations(raw: dict[str, Any]) -> None:
    config = TRANSLATORS[LLAMA.name].read(raw)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**deepcopy(raw)))
    expected = theirs(torch.zeros(1), torch.arange(config.context_length)[None])
    got = rotary_table(config)
    assert config.context_length >= raw["max_position_embeddings"]
    rounding = 4e-7 * config.context_length  # of the largest angle, in float32
    torch.testing.assert_close(got, torch.cat(expected), atol=rounding, rtol=0)
    torch.testing.assert_close(got[:, :100], torch.cat(expected)[:, :100], atol=1e-4, rtol=0)
    again = TRANSLATORS[LLAMA.name].read(TRANSLATORS[LLAMA.name].write(config))
    torch.testing.assert_close(rotary_table(again), got, atol=0, rtol=0)
    written = LlamaRotaryEmbedding(LlamaConfig(**TRANSLATORS[LLAMA.name].write(config)))
    torch.testing.assert_close(written.inv_freq, theirs.inv_freq)


@pytest.mark.parametrize(
    "part",
    [
        {"rope_theta": 500.0},
        {"rope_scaling": {"rope_theta": 500.0, "rope_type": "default"}},
        {"rope_scaling": {"rope_theta": 500.0}, "rope_theta": 700.0},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "rope_theta": 700.0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 700.0},
        {"rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 300.0}, "rope_theta": 700.0},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "rope_theta": 5e5}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "original_max_position_embeddings": 1024},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_parameters": {**YARN}},
        {"rope_scaling": {}, "rope_parameters": {**YARN}},
        {"rope_scaling": {**YARN}, "rope_theta": 1e6, "head_dim": 48},
        {"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 128}},
        {"rope_scaling": {**YARN, "factor": None}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        {"rope_scaling": {**YARN, "factor": 1.0}},
        {"rope_scaling": {**YARN, "attention_factor": 0.7}},
        {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.3}},
        {"rope_scaling": {**YARN, "mscale": 0.707}},
        {"rope_scaling": {**YARN, "mscale_all_dim": 0.707}},
        {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 2, "truncate": False}},
        {"rope_scaling": {**YARN, "beta_fast": None, "beta_slow": None, "truncate": False}},
        {"rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 4}},
    ],
    ids=str,
)
def test_rotations_are_those_of_transformers(part: dict[str, Any]) -> None:
    assert_same_rotations({**SHAPE, **part})


@given(
    theta=st.sampled_from([300.0, 1e4, 5e5, 1e7]),
    factor=st.floats(1, 12),
    original=st.integers(16, 4000),
    low=st.floats(0.5, 3),
    span=st.floats(0.5, 20),
    kind=st.sampled_from(["llama3", "yarn", "linear"]),
    truncate=st.booleans(),
    heads=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=40)
def test_rotations_of_any_scaling_are_those_of_transformers(
    theta: float, factor: float, original: int, low: float, span: float, kind: str, truncate: bool, heads: int
) -> None:
    part: dict[str, Any] = {"rope_type": kind, "factor": factor, "rope_theta": theta}
    if kind != "linear":
        part["original_max_position_embeddings"] = original
    if kind == "llama3":
        part |= {"low_freq_factor": low, "high_freq_factor": low + span}
    if kind == "yarn":
        part |= {"beta_slow": low, "beta_fast": low + span, "truncate": truncate}
    heads_part = {"num_attention_heads": heads, "num_key_value_heads": heads}
    assert_same_rotations({**SHAPE, "max_position_embeddings": 256, **heads_part, "rope_scaling": part})


def test_a_context_that_yarn_stretches_is_as_long_as_its_factor_says() -> None:
    """A model's page may have its reader add rope_scaling and nothing else."""
    read = TRANSLATORS[LLAMA.name].read
    assert read({**SHAPE, "rope_scaling": {"type": "yarn", "factor": 4.0}}).context_length == 4 * 4096
    assert read({**SHAPE, "rope_scaling": YARN}).context_length == 4096
    assert read({**SHAPE, "rope_scaling": {"type": "linear", "factor": 4.0}}).context_length == 4096
