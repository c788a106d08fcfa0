"""What a pass without a cache keeps of its keys and values, and how queries find them."""

from __future__ import annotations

from weakref import ref

import pytest
import torch
from torch import Tensor

from lts_ray.models import attend
from lts_ray.models.attend import Look, OwnTokens, takes_shared_keys


def test_keys_are_let_go_unless_a_later_layer_looks_at_them() -> None:
    """Those of all layers together would be as large as the cache that this pass does without."""
    own, q = OwnTokens(donors={1}), torch.ones(1, 2, 3, 4)

    def pair(value: float) -> tuple[Tensor, Tensor]:
        return torch.full((1, 2, 3, 4), value), torch.full((1, 2, 3, 4), value)

    held = []
    for layer in range(3):
        k, v = pair(float(layer))
        held += [ref(k)]
        own(layer, q, k, v)
        del k, v
    assert [each() is None for each in held] == [True, False, True]
    torch.testing.assert_close(own(1, q, None, None), torch.ones(1, 2, 3, 4))
    with pytest.raises(KeyError):
        own(0, q, None, None)


@pytest.mark.parametrize("window", [None, 2])
def test_queries_that_share_keys_find_the_same_with_keys_of_their_own(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 4, generator=generator) for heads in (6, 2, 2))
    look = Look(group=3, window=window)
    shared = OwnTokens()(0, q, k, v, look)
    asked: list[bool] = []

    def never(_: Tensor, mask: Tensor | None) -> bool:
        asked.append(mask is not None)
        return False

    monkeypatch.setattr(attend, "takes_shared_keys", never)
    torch.testing.assert_close(OwnTokens()(0, q, k, v, look), shared)
    assert asked == [window is not None]


def test_a_gpu_shares_keys_only_in_half_precision_and_without_a_mask() -> None:
    class OnGpu:
        is_cuda = True

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    mask = torch.ones(5, 5, dtype=torch.bool)
    assert takes_shared_keys(torch.empty(1), mask)
    for dtype, seen, takes in (
        (torch.bfloat16, None, True),
        (torch.float16, None, True),
        (torch.float16, mask, False),
        (torch.float32, None, False),
    ):
        assert takes_shared_keys(OnGpu(dtype), seen) is takes  # type: ignore[arg-type]
