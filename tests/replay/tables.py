"""A table made up by a law: deep and wide designs are better and cost more."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_table(path: Path, *, rows: int = 300, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    lines = ["d_model,n_layer,heads,ratios,bias,perplexity,latency_ms,memory_mb"]
    while len(seen) < rows:
        d_model, n_layer = int(rng.choice([128, 256, 512])), int(rng.integers(3, 6))
        heads, ratios = rng.choice([2, 4, 8], n_layer), rng.choice([2, 3, 4], n_layer)
        size = d_model * float(ratios.sum())
        perplexity = 90 - 7 * np.log(size) + rng.normal(0, 0.05)
        latency = 1 + 0.2 * n_layer + size / 900 + 0.02 * float(heads.sum()) + abs(rng.normal(0, 0.02))
        memory = 20 + d_model * (0.02 * n_layer + 0.05 * float(ratios.max()))
        cells = (d_model, n_layer, " ".join(map(str, heads)), " ".join(map(str, ratios)), int(rng.integers(2)))
        design = ",".join(map(str, cells))
        if design not in seen:
            seen.add(design)
            lines.append(f"{design},{perplexity:.5f},{latency:.5f},{memory:.5f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


OBJECTIVES = ("perplexity", "latency_ms", "memory_mb")
