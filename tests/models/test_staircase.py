"""One pass over rows of different width is each row alone, with gradients and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.models.family import GPT2, LLAMA, Family
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.staircase import each_alone, fan, staircase

some_widths = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def block(family: Family) -> FeedForward:
    torch.manual_seed(0)
    made = FeedForward(6, 12, family)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 6, generator=torch.Generator().manual_seed(1))


families = pytest.mark.parametrize("family", [LLAMA, GPT2], ids=["gated", "with biases"])


@families
@pytest.mark.parametrize("way", [staircase, each_alone])
@given(widths=some_widths)
def test_a_staircase_is_every_row_alone(way: Callable[..., torch.Tensor], family: Family, widths: list[int]) -> None:
    ffn, ordered = block(family), sorted(widths, reverse=True)
    x = rows(len(ordered)).requires_grad_()
    alone = torch.stack([ffn.band(row, 0, width) for row, width in zip(x, ordered, strict=True)])
    together = way(x, ordered, ffn)
    torch.testing.assert_close(together, alone)
    inputs = [x, *ffn.parameters()]
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((together * weights).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((alone * weights).sum(), inputs), atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(way(x.detach(), ordered, ffn), alone.detach())


@families
@given(widths=some_widths)
def test_a_fan_is_the_same_rows_under_each_width(family: Family, widths: list[int]) -> None:
    """Widths in any order, some of them twice."""
    ffn, x = block(family), rows(2).requires_grad_()
    alone = torch.cat([ffn.band(x, 0, width) for width in widths])
    fanned = fan(x, widths, ffn)
    torch.testing.assert_close(fanned, alone)
    inputs = [x, *ffn.parameters()]
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((fanned * weights).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((alone * weights).sum(), inputs), atol=1e-5, rtol=1e-4)


def test_neurons_past_the_widest_get_a_gradient_of_zero() -> None:
    ffn = block(LLAMA)
    staircase(rows(2), [8, 4], ffn).sum().backward()  # type: ignore[no-untyped-call]
    gradient = ffn.up_proj.weight.grad
    assert gradient is not None
    assert gradient.shape == (12, 6)
    assert gradient[8:].abs().sum() == 0 < gradient[7].abs().sum()
