"""Training arithmetic in closed form."""

from __future__ import annotations

import pytest

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.flops import objective_flops, training_flops
from lts_ray.training.run_settings import TrainingSettings

CONFIG = MatFormerConfig(vocab_size=100, d_model=8, n_head=2, n_kv_head=1, widths=(16, 16), context_length=64)


def flops(width: int, *, tokens: int = 10, length: int = 5) -> float:
    """By hand: two layers of attention (q, o: 8·8; k, v: 8·4), norms and FFN; the last norm; the head; the scores."""
    layer = 2 * 64 + 2 * 32 + 2 * 8 + 3 * 8 * width
    scores = 2 * (2 * length * 8)
    return 6 * tokens * (2 * layer + 8 + 100 * 8 + scores)


def test_a_pass_costs_six_operations_a_parameter_and_those_of_attention() -> None:
    for name, width in (("S", 2), ("M", 4), ("L", 8), ("XL", 16)):
        assert training_flops(CONFIG, CONFIG.trained[name], 10, 5) == flops(width)


def test_flops_grow_with_tokens_and_only_attention_with_length() -> None:
    assert training_flops(CONFIG, CONFIG.universal, 30, 5) == 3 * flops(16)
    assert training_flops(CONFIG, CONFIG.universal, 10, 20) - flops(16) == 6 * 10 * 2 * 2 * 15 * 8


def test_a_joint_step_costs_all_its_granularities_and_a_sampled_one_their_mean() -> None:
    widths = {"S": 2, "M": 4, "L": 8, "XL": 16}
    joint = TrainingSettings(weights={"S": 1, "XL": 9}).objective_of(widths)
    assert objective_flops(CONFIG, joint, 10, 5) == flops(2) + flops(16)
    chances = TrainingSettings(objective="sampled", probabilities={"S": 1, "XL": 3}).objective_of(widths)
    assert objective_flops(CONFIG, chances, 10, 5) == pytest.approx(0.25 * flops(2) + 0.75 * flops(16))
