"""`lts-ray measure --step-costs`: what a replica would learn of this node's steps, and what its start takes.

Bare steps are calibrated as at a replica's start, and the engine rehearses. Then it rehearses on, and its steps are
recorded: what serving adds to them is fitted to all, and how they strayed from that is kept, one after the other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from lts_ray.checkpoints.universal import vouched
from lts_ray.console import progress_bars
from lts_ray.device import device_here, dtype_here, gpu_memory
from lts_ray.ending import ending_in_one_line
from lts_ray.interrupt import interruptible
from lts_ray.processor import Processor
from lts_ray.record import read_record
from lts_ray.runtime.kernel_library import warn_of_missing_kernels
from lts_ray.runtime.node_calibration import NodeCalibration
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.target import read_target
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.rehearsal import rehearse
from serve.engine.step import Step
from serve.loaded_model import LoadedModel
from serve.policies.deadline import DeadlinePolicy
from serve.policies.menu import menu_of_granularities
from serve.replica import CALIBRATION_S, REHEARSAL_S
from serve.serve_args import ServeArgs

RECORDING_S = 6.0
IMPORTED = "serve.ray_deployment"
"""What a replica's process imports, the rest with it."""
TimedStep = tuple[float, bool, float]
"""Milliseconds on a quiet node, whether the step read a prompt, and the milliseconds that it took."""


class RecordedTimes(LearnedTimes):
    """Keeps the steps, too."""

    def __init__(self, costs: StepCosts) -> None:
        super().__init__(costs)
        self.steps: list[TimedStep] = []

    def end(self, step: Step) -> tuple[float, float]:
        now, took_ms = super().end(step)
        self.steps.append((step.quiet_ms, step.reads_prompt, took_ms))
        return now, took_ms


def served_costs(
    costs: StepCosts, steps: Sequence[TimedStep]
) -> tuple[StepCosts, tuple[float, ...], tuple[float, ...]]:
    """The costs with what serving adds, by all steps; what each took over that, and those that read prompts apart."""
    kept = [step for step in steps if step[0] > 0 and step[2] > 0]
    quiet_ms, prompt, took_ms = (np.array(column) for column in zip(*kept, strict=True))
    terms = np.stack([quiet_ms * ~prompt, quiet_ms * prompt, np.ones(len(kept))], axis=1)
    (slowdown, with_prompt, overhead_ms), _ = nnls(terms / took_ms[:, None], np.ones(len(kept)))  # stalls count little
    slowdown, with_prompt = slowdown or with_prompt or 1.0, with_prompt or slowdown or 1.0
    served = costs.corrected(
        slowdown=float(slowdown), prompt_slowdown=float(with_prompt / slowdown), overhead_ms=float(overhead_ms)
    )
    ratios = [(reads, round(took / served.served_ms(quiet, reads_prompt=reads), 4)) for quiet, reads, took in kept]
    with_prompts, others = (tuple(ratio for reads, ratio in ratios if reads == of) for of in (True, False))
    return served, others, with_prompts


def calibrate(order: Sequence[str], show: Callable[[str, int, int], None]) -> NodeCalibration:
    """order: model's folder, threads, device, dtype (empty: what suits the device), precisions. show: told what is
    done, how much of it, and of how much."""
    folder, threads, device, dtype, precisions = order
    device = device_here(device, what="--device")
    moments_s: list[float] = []

    def over() -> None:
        show("measuring", len(moments_s), 4)
        moments_s.append(perf_counter())

    over()
    subprocess.run([sys.executable, "-c", f"import {IMPORTED}"], check=True)
    over()
    given = {"model": folder, "threads": threads, "precisions": precisions, "device": device}
    asked = read_record(ServeArgs, given)
    numbers = {"device": device, "dtype": dtype or dtype_here(device)}
    target = read_target({"name": "here", "local": True, **numbers})
    loaded = LoadedModel.of(asked, target, None, threads=int(threads))
    runtime, config, losses, capacity = loaded.runtime, loaded.config, loaded.validation_loss, loaded.capacity
    over()
    times = RecordedTimes(bare := measure_step_costs(runtime, seconds=CALIBRATION_S))
    known, served = vouched(config, losses), runtime.precisions
    menu = menu_of_granularities(config, losses, vouched=known, precisions=served).priced(bare)
    make = partial(Engine, runtime, menu=menu, times=times, policy=DeadlinePolicy(), eos_ids=frozenset[int]())
    rehearse(make(capacity=capacity), seconds=REHEARSAL_S)
    over()
    times.steps.clear()
    rehearse(make(capacity=capacity), seconds=RECORDING_S)
    over()
    costs, ratios, prompt_ratios = served_costs(bare, times.steps)
    starts = dict(zip(("process_s", "load_s", "calibration_s"), np.diff(moments_s).round(2).tolist(), strict=False))
    here = Processor.here()
    machine = f"{here.name}, {here.cores} cores" if device == "cpu" else torch.cuda.get_device_name()
    how: dict[str, Any] = {
        "threads": int(threads),
        "device": device,
        "machine": machine,
        "dtype": target.dtype,
        "memory_bytes": 0 if device == "cpu" else gpu_memory()[1],
        "precisions": served,
        **starts,
    }
    return NodeCalibration(model=loaded.fingerprint, costs=costs, ratios=ratios, prompt_ratios=prompt_ratios, **how)


@interruptible
def run(file: str, *order: str) -> None:
    warn_of_missing_kernels()
    with progress_bars() as show:
        found = calibrate(order, show)
    found.write(Path(file))
    starts = f"process {found.process_s:g} s, model {found.load_s:g} s, calibration {found.calibration_s:g} s"
    steps, slowdown = len(found.ratios) + len(found.prompt_ratios), found.costs.slowdown
    print(f"{file}: {steps:,} steps, {slowdown:.2f} times as long as bare ones; {starts}")


if __name__ == "__main__":
    with ending_in_one_line("lts-ray"):
        run(*sys.argv[1:])
