"""The check of a GPU at toy shapes, and parts of it that fail: `python -m tests.benchmarks.tiny_check NAME WHAT …`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common.command import run_benchmark
from benchmarks.gpu import check_part
from benchmarks.gpu.check_run import CheckRun, Found
from benchmarks.gpu.check_scale import SMALL, Ceilings, CheckScale
from benchmarks.gpu.part_crew import CheckPart
from benchmarks.gpu_check import check_all
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.torch_runtime import TorchRuntime
from tests.serve.engine.choosing_runtime import ChoosingTorchRuntime

PART = (sys.executable, "-W", "ignore", "-m", "tests.benchmarks.tiny_check")
TOY = MatFormerConfig(vocab_size=64, d_model=32, n_head=2, n_kv_head=1, widths=(32,) * 2, context_length=64)
TINY = CheckScale(
    device=torch.device("cpu"),
    runtime=lambda model, n_blocks: ChoosingTorchRuntime(TorchRuntime(model, n_blocks=n_blocks)),
    dtype=torch.float32,  # Triton's interpreter multiplies bfloat16 wrongly
    exact=(torch.float16,),
    shapes={SMALL: TOY},
    rows=(1, 4),
    context=16,
    prompt=24,
    repeats=2,
    product=32,
    rival_rows=(1,),
    rival_tokens=3,
    d_models=(16,),
    lessons=(1, 64, 2, 8),
    rounds=2,
    streams=(3, 6, 4),
    calibration_s=0.01,
    tests=(),
)
OURS = ("raises", "killed", "hangs", "once", "toys", "transformers")
"""Parts that are functions here."""


def raises(scale: CheckScale, *, ready: Callable[[], Ceilings]) -> Found:
    ready()
    yield {"ms": 1.0}
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore words")


def killed(scale: CheckScale, *, ready: Callable[[], Ceilings]) -> Found:
    ready()
    yield {"ms": 2.0}
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(scale: CheckScale, *, ready: Callable[[], Ceilings]) -> Found:
    """And so does what it has started."""
    child = subprocess.Popen(["sleep", "600"])
    yield {"pids": [os.getpid(), child.pid]}
    ready()
    threading.Event().wait()


def once(scale: CheckScale, path: str, *, ready: Callable[[], Ceilings]) -> Found:
    """Before it is ready."""
    if not Path(path).exists():
        Path(path).write_text("been here")
        raise MemoryError
    yield {"rate": ready().multiplied}


def transformers(scale: CheckScale, shape: str, rows: str, *, ready: Callable[[], Ceilings]) -> Found:
    """Which takes seconds to import."""
    ready()
    yield {"shape": shape, "rows": int(rows), "token_ms": 1e3}


def toys(scale: CheckScale, path: str, *, ready: object) -> Found:
    from benchmarks.gpu.card_tests import tests

    yield from tests(replace(scale, tests=[path], test_workers=0), ready=ready)


def whole(output: Path) -> None:
    check_all([CheckPart("hangs", seconds=600)], CheckRun(output, seconds=600), command=PART)


if __name__ == "__main__":
    if sys.argv[1] == "whole":
        del sys.argv[1]
        run_benchmark(whole)
    check_part.PARTS = {**check_part.PARTS, **dict.fromkeys(OURS, __spec__.name)}
    check_part.run_part(TINY, *sys.argv[1:])
