"""The top-k gate of a prefix, in whatever batch, is that of a block which has no more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from lts_ray.models.gemma3n.sparse_feed_forward import SparseFeedForward
from tests.models.gemma3n.tiny import TEXT, randomize

D_MODEL, WIDTH, SPARSITY = TEXT["hidden_size"], 40, 0.8


def sparse() -> SparseFeedForward:
    ffn = SparseFeedForward(D_MODEL, WIDTH, SPARSITY)
    randomize(ffn)
    return ffn


@torch.inference_mode()
def their_output(ffn: SparseFeedForward, x: Tensor, width: int) -> Tensor:
    """Of transformers' block that has `width` neurons, the first ones of `ffn`."""
    layers = {"num_hidden_layers": 1, "layer_types": ["full_attention"], "num_kv_shared_layers": 0}
    config = Gemma3nTextConfig(
        **{**TEXT, **layers, "intermediate_size": width, "activation_sparsity_pattern": [SPARSITY]}
    )
    theirs = Gemma3nTextMLP(config)
    theirs.gate_proj.weight.copy_(ffn.gate_proj.weight[:width])
    theirs.up_proj.weight.copy_(ffn.up_proj.weight[:width])
    theirs.down_proj.weight.copy_(ffn.down_proj.weight[:, :width])
    output: Tensor = theirs(x)
    return output


@settings(max_examples=40)
@given(widths=st.lists(st.integers(1, WIDTH), min_size=1, max_size=5))
@torch.inference_mode()
def test_every_row_gets_what_a_sliced_block_gives(widths: list[int]) -> None:
    ffn = sparse()
    x = torch.randn(len(widths), 3, D_MODEL, generator=torch.Generator().manual_seed(len(widths)))
    actual = ffn(x, tuple(widths))
    for row, width in enumerate(widths):
        expected = their_output(ffn, x[row : row + 1], width)
        torch.testing.assert_close(actual[row : row + 1], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(ffn(x[row : row + 1], width), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_masked_suffix_is_another_function_than_a_slice() -> None:
    """Statistics over all gates move the cut: this is why rows of different width do not share them."""
    ffn = sparse()
    x = torch.randn(4, 3, D_MODEL, generator=torch.Generator().manual_seed(1))
    gate = x @ ffn.gate_proj.weight.T
    over_all = ffn._opened(gate, gate.mean(-1, keepdim=True), gate.std(-1, keepdim=True, unbiased=False))
    masked = (over_all * (x @ ffn.up_proj.weight.T))[..., :10] @ ffn.down_proj.weight[:, :10].T
    assert (masked - ffn(x, 10)).abs().max() > 0.1


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.95])
@torch.inference_mode()
def test_the_cut_leaves_about_the_share_that_is_asked_for(sparsity: float) -> None:
    ffn = SparseFeedForward(64, 4096, sparsity)
    randomize(ffn)
    gate = torch.randn(20, 1, 64, generator=torch.Generator().manual_seed(0)) @ ffn.gate_proj.weight.T
    opened = ffn._opened(gate, gate.mean(-1, keepdim=True), gate.std(-1, keepdim=True, unbiased=False))
    assert (opened == 0).float().mean().item() == pytest.approx(sparsity, abs=0.01)


def test_gradients_of_a_mixed_batch_are_those_of_its_rows_alone() -> None:
    ffn, widths = sparse(), (40, 10, 25)
    x = torch.randn(3, 2, D_MODEL, generator=torch.Generator().manual_seed(3))
    ffn(x, widths).square().sum().backward()
    together = [each.grad for each in ffn.parameters()]
    ffn.zero_grad(set_to_none=True)
    for row, width in enumerate(widths):
        ffn(x[row : row + 1], width).square().sum().backward()
    for actual, parameter in zip(together, ffn.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad, atol=1e-4, rtol=1e-4)
