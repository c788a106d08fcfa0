from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_checkpoint import load_gemma3n
from lts_ray.models.gemma3n.sliced_checkpoint import slice_checkpoint
from tests.models.gemma3n.tiny import SUBMODELS, save_tiny, their_logits


@pytest.fixture(scope="session")
def gemma_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    save_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def gemma(gemma_dir: Path) -> Gemma3n:
    return load_gemma3n(gemma_dir).model


@pytest.fixture(scope="session")
def gemma_tokens() -> Tensor:
    """[6, 11], a row for each submodel, longer than the window; some are past the layers' own tables."""
    return torch.randint(0, 60, (len(SUBMODELS), 11), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def sliced(gemma_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each of SUBMODELS."""
    folders = {name: tmp_path_factory.mktemp("slices") / "sliced" for name in SUBMODELS}
    for name, text in SUBMODELS.items():
        slice_checkpoint(gemma_dir, text, folders[name])
    return folders


@pytest.fixture(scope="session")
def expected(sliced: dict[str, Path], gemma_tokens: Tensor) -> dict[str, Tensor]:
    """What plain transformers computes of each slice: [6, 11, 60]."""
    return {name: their_logits(folder, gemma_tokens) for name, folder in sliced.items()}
