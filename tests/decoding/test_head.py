from __future__ import annotations

import pytest
import torch

from lts_ray.decoding import head
from lts_ray.decoding.head import logits_of_few, output_matrix
from lts_ray.models.matformer import MatFormer


@pytest.mark.parametrize("large", [0, 2**40], ids=["other way round", "as linear takes it"])
@pytest.mark.parametrize("states", [1, 3])
def test_few_logits_are_the_models(
    universal: MatFormer, states: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "LARGE", large)
    hidden = torch.randn(states, universal.config.d_model, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits_of_few(universal, hidden), universal.logits(hidden))


def test_the_output_matrix_is_what_logits_multiply_with(universal: MatFormer) -> None:
    torch.testing.assert_close(output_matrix(universal).t(), universal.logits(torch.eye(universal.config.d_model)))
