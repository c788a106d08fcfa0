"""Toy parts that the tests of serving share: a tiny random model, its tokenizer, a cost model with round numbers."""

from __future__ import annotations

import torch

from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.models.config import MatFormerConfig
from lts_ray.models.matformer import MatFormer
from serve.menu import Menu, menu_of_granularities

CONFIG = MatFormerConfig(vocab_size=300, d_model=32, n_head=4, n_kv_head=2, widths=(64,) * 3, context_length=96)

# prefill: 1 ms + 0.01 ms per token and neuron... decode: 1 ms + 0.1 ms per neuron of the widest row + 1 ms per row
STEP_COST = StepCostModel(prefill=(1.0, 0.01, 0.0, 0.001, 0.0), decode=(1.0, 0.1, 1.0, 0.0, 0.0), relative_error=0.0)


def tiny_model(seed: int = 0) -> MatFormer:
    """Weights far from zero, so that logits lie far apart and rounding cannot flip an argmax."""
    model = MatFormer(CONFIG).eval()
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def tiny_menu() -> Menu:
    return menu_of_granularities(CONFIG, {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0})
