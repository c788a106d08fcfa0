from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from lts_ray.models.matformer.matformer import MatFormer


class ModelClock:
    """A clock that only forwards advance: by 1 s, and a second for every token per whole FFN's width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        hidden = MatFormer.hidden

        def forward(model: MatFormer, tokens: Tensor, *, submodel: Any, cache: Any = None) -> Tensor:
            self.now += 1 + tokens.shape[1] * model.config.relative_size(submodel)
            return hidden(model, tokens, submodel=submodel, cache=cache)

        monkeypatch.setattr(MatFormer, "hidden", forward)

    def __call__(self) -> float:
        return self.now
