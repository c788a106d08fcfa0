from __future__ import annotations

import numpy as np
import pytest
import torch

from lts_ray.bench.blocks import recut
from lts_ray.errors import LtsRayError
from lts_ray.training.data import blocks_of


def test_blocks_are_cut_again_as_the_text_would_be() -> None:
    text = np.arange(100, dtype=np.int32)
    long = blocks_of(text, length=20)
    assert torch.equal(recut(long, 6), blocks_of(text[:80], length=6))


def test_longer_blocks_than_there_were_are_refused() -> None:
    with pytest.raises(LtsRayError, match="30 tokens are more"):
        recut(blocks_of(np.arange(100, dtype=np.int32), length=20), 30)
