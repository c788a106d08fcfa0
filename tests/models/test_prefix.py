"""The prefix that one model has of another's weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.models.prefix import prefix

sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=3)


@given(sizes)
def test_a_prefix_is_the_slice_from_the_start_of_every_dimension(drawn: list[tuple[int, int]]) -> None:
    """drawn: for each dimension its size and how much of it is left out, at most all but one."""
    whole = [size for size, _ in drawn]
    shape = [max(1, size - less) for size, less in drawn]
    tensor = torch.arange(torch.tensor(whole).prod().item()).view(whole)
    assert torch.equal(prefix(tensor, shape), tensor[tuple(slice(size) for size in shape)])


def test_a_prefix_is_a_view_and_of_the_same_shape_the_tensor_itself() -> None:
    tensor = torch.zeros(4, 6)
    prefix(tensor, (2, 3)).fill_(1)
    assert tensor.sum() == 6
    assert prefix(tensor, (4, 6)) is tensor


@pytest.mark.parametrize("shape", [(5, 6), (4, 7), (4,), (4, 6, 1)], ids=str)
def test_a_shape_that_does_not_fit_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    """Where a slice would silently be shorter."""
    with pytest.raises(LtsRayError, match=r"shape \(.*\) cannot be cut out of one of shape \(4, 6\)"):
        prefix(torch.zeros(4, 6), shape)
