"""What tests of loads share: costs of whole milliseconds, and the tiny model as an engine that takes few requests."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load.local_model import LoadCapacity, LocalModel
from lts_ray.runtime.step_costs import StepCosts

COSTS = StepCosts(grid=(1, 65), base=(2.0, 4.0), neuron=(0.03, 0.06), head=(0.5, 0.5), attended=1e-3)
"""A step of the universal model (192 neurons) takes 8 ms and more: about 25 requests a second with four places."""


def local_model(folder: Path, *, max_queue: int = 8, precisions: tuple[str, ...] = ("float32",)) -> LocalModel:
    capacity = LoadCapacity(context_length=48, slots=4, max_queue=max_queue, chunk_tokens=32)
    return LocalModel(folder, capacity=capacity, threads=1, precisions=precisions)
