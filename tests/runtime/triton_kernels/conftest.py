"""What the tests of all kernels share: they run on a card where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if torch.cuda.is_available() else [])
"""Of weights. The interpreter takes the bits of bfloat16 for integers in products."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of weights, cache and products."""
    return request.param
