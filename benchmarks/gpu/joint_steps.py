"""Joint training steps beside those of the plain models, compiled alike."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks.common.scale import Scale, run_flops
from benchmarks.common.training_steps import quartiles_of_ratio, time_training_steps
from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

WARMUP = 3
MEMORY = {256: 0.14, 512: 0.25, 1_024: 0.48}
"""Of the card, by d_model: what training may take, whose passes are as large as fits, so that there is room for the
others that make themselves ready."""


def training(scale: CheckScale, width: str, *, ready: Callable[[], Ceilings]) -> Found:
    """width: d_model. of_chip_rate: as if each granularity ran alone."""
    d_model, ceilings = int(width), list[Ceilings]()
    layers, vocabulary, rows, length = scale.lessons
    heads = max(2, d_model // 64)
    shape: dict[str, Any] = {"n_head": heads, "n_kv_head": heads // 2, "n_layer": layers, "context_length": length}
    options = TrainingSettings(batch_size=rows, sequence_length=length, device=scale.device.type)  # type: ignore[arg-type]
    model = ModelSettings(vocab_size=vocabulary, d_model=d_model, d_ff=11 * d_model, **shape)
    sized = Scale(name="check", model=model, training=options)
    kinds = {"joint": sized.universal} | dict(sized.baselines)
    if scale.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(MEMORY[d_model])

    def progress(done: int, total: int) -> None:
        if done == WARMUP * len(kinds):
            torch.cuda.empty_cache()
            ceilings.append(ready())

    times = time_training_steps(kinds, vocab_size=vocabulary, rounds=scale.rounds, warmup=WARMUP, progress=progress)
    together = [sum(each) for each in zip(*(times[name] for name in sized.baselines), strict=True)]
    step_s, flops = median(times["joint"]) / 1e3, run_flops(sized.universal, vocabulary) / options.steps
    ratio = quartiles_of_ratio(times["joint"], together)[1]
    what = {"d_model": d_model, "joint_ms": 1e3 * step_s, "plain_together_ms": median(together), "ratio": ratio}
    rate = flops / step_s
    speed = {
        "tokens_per_s": rows * length / step_s,
        "tflop_per_s": rate / 1e12,
        "of_chip_rate": rate / ceilings[0].multiplied,
    }
    yield what | speed | {"peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6)}
