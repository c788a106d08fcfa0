"""What the commands of endpoint benchmarks share: options, and the costs of an engine's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lts_ray.runtime.node_calibration import read_calibration
from lts_ray.runtime.step_costs import StepCosts

CONTEXT, CALIBRATION_S = 512, 5.0
"""What --context and --calibration are by themselves."""

Frontier = Annotated[Path | None, typer.Option(help="frontier.json of that model; default: its granularities.")]
TargetName = Annotated[str | None, typer.Option("--target", help="The frontier's target; default: all its points.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the engine; default: all cores but one.")]
Context = Annotated[int, typer.Option(min=8, help="The most tokens of a request, prompt and response together.")]
Slots = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Requests that wait beyond them; more are rejected.")]
ChunkTokens = Annotated[int, typer.Option(min=2, help="The most tokens of a step.")]
Calibration = Annotated[float, typer.Option(min=0.1, help="Seconds to measure the engine's steps for.")]
Costs = Annotated[
    Path | None, typer.Option(help="File of `lts-ray measure --step-costs` to take; default: steps are measured.")
]


def read_costs(file: Path | None) -> StepCosts | None:
    return None if file is None else read_calibration(file).costs
