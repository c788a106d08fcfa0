"""What the commands of endpoint benchmarks share: options, the model in this process, and the costs of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.load.local_model import LocalModel, default_threads
from benchmarks.load.policies_folder import read_setup
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.capacity import Capacity

CONTEXT = 512

Frontier = Annotated[Path | None, typer.Option(help="frontier.json of that model; default: its granularities.")]
TargetName = Annotated[str | None, typer.Option("--target", help="The frontier's target; default: all its points.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the engine; default: all cores but one.")]
Context = Annotated[int, typer.Option(min=8, help="The most tokens of a request, prompt and response together.")]
Slots = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Requests that wait beyond them; more are rejected.")]
ChunkTokens = Annotated[int, typer.Option(min=2, help="The most tokens of a step.")]
Calibration = Annotated[float, typer.Option(min=0.1, help="Seconds to measure the engine's steps for.")]
Costs = Annotated[
    Path | None, typer.Option(help="setup.json of an earlier run whose step costs to take; default: measure them.")
]


def open_model(
    folder: Path,
    *,
    frontier: Path | None = None,
    target: str | None = None,
    context: int = CONTEXT,
    slots: int,
    max_queue: int,
    chunk_tokens: int,
    threads: int | None,
) -> LocalModel:
    capacity = Capacity(context_length=context, slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens)
    return LocalModel(folder, capacity=capacity, threads=threads or default_threads(), frontier=frontier, target=target)


def read_costs(setup: Path | None) -> StepCosts | None:
    return None if setup is None else read_setup(setup).costs
