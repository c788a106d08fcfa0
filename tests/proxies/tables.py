"""Made-up results of training: what the tests of proxies are judged against."""

from __future__ import annotations

import numpy as np

from lts_ray.architecture import Architecture


def draw_architectures(count: int, rng: np.random.Generator) -> list[Architecture]:
    def draw() -> Architecture:
        n_layer = int(rng.integers(2, 12))
        return Architecture(
            d_model=int(rng.choice([64, 128, 256, 512])),
            n_head=tuple(rng.choice([2, 4, 8], n_layer).tolist()),
            d_inner=tuple(rng.integers(500, 2000, n_layer).tolist()),
            d_embed=int(rng.choice([128, 256, 512])),
            div_val=int(rng.choice([1, 2, 4])),
        )

    return [draw() for _ in range(count)]


def loss_of(architecture: Architecture) -> float:
    """Falls with width and depth as powers, and with what share of d_model the embedding fills. No noise."""
    width, depth = architecture.d_model, architecture.n_layer
    neurons = sum(architecture.d_inner) / depth
    shortfall = max(0.0, np.log(width / (architecture.d_embed / architecture.div_val)))
    return float(2.0 + 8 * width**-0.35 + 0.6 * depth**-0.8 + 2 * neurons**-0.5 + 0.08 * shortfall)
