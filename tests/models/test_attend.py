"""What a pass without a cache keeps of its keys and values."""

from __future__ import annotations

from weakref import ref

import pytest
import torch
from torch import Tensor

from lts_ray.models.attend import OwnTokens


def test_keys_are_let_go_unless_a_later_layer_looks_at_them() -> None:
    """Those of all layers together would be as large as the cache that this pass does without."""
    attend, q = OwnTokens(donors={1}), torch.ones(1, 2, 3, 4)

    def pair(value: float) -> tuple[Tensor, Tensor]:
        return torch.full((1, 2, 3, 4), value), torch.full((1, 2, 3, 4), value)

    held = []
    for layer in range(3):
        k, v = pair(float(layer))
        held += [ref(k)]
        attend(layer, q, k, v)
        del k, v
    assert [each() is None for each in held] == [True, False, True]
    torch.testing.assert_close(attend(1, q, None, None), torch.ones(1, 2, 3, 4))
    with pytest.raises(KeyError):
        attend(0, q, None, None)
