"""Does the GPU runtime compute what the model computes, how fast, and beside what the card could do?

One run of some minutes on a machine with a card: tests of the kernels, errors against float32, steps, kernels, the
engine, prompts, training and transformers, the most important first. Each part is a process of its own, of which a
fault, a hang or a kill loses nothing else; what there is is in the output file at any moment.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common.command import run_benchmark
from benchmarks.common.machine import Machine
from benchmarks.gpu.check_run import CheckRun, Found
from benchmarks.gpu.check_scale import CheckScale
from benchmarks.gpu.part_crew import CheckPart, PartCrew
from benchmarks.gpu.wanted import compared
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError

PART = (sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.check_part")
SMI = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "temperature.gpu")


def check_parts(scale: CheckScale) -> list[CheckPart]:
    """The most important first."""
    shapes, alone = list(scale.shapes)[::-1], [*map(str, scale.rows), "prompt"]
    return [
        CheckPart("tests", seconds=150, timed=False),
        *[CheckPart("errors", (shape,), seconds=120, timed=False) for shape in shapes],
        CheckPart("ceilings", seconds=20),
        *[CheckPart("steps", (shape,), seconds=60) for shape in shapes],
        *[CheckPart("alone", (shape, rows), seconds=40, nice=5) for rows in alone for shape in shapes],
        *[CheckPart("engine", (shape,), seconds=40, nice=5) for shape in shapes[::-1]],
        *[CheckPart("prompts", (shape,), seconds=30, nice=5) for shape in shapes],
        *[CheckPart("training", (str(width),), seconds=60, nice=10) for width in list(scale.d_models)[::-1]],
        *[CheckPart("transformers", (shape, str(rows)), 60, nice=10) for rows in scale.rival_rows for shape in shapes],
    ]


def check_all(parts: Sequence[CheckPart], run: CheckRun, *, command: Sequence[str] = PART, at_once: int = 9) -> None:
    """Also what is wanted, of what there is. What compiles longest begins early; what another compiles too, later.

    at_once: parts that make themselves ready: the tests alone take six of some 16 cores, and training takes memory.
    """
    late = ("transformers", "alone", "engine", "prompts")
    order = sorted(parts, key=lambda part: late.index(part.kind) if part.kind in late else -1)
    crew = PartCrew(order, command, at_once=at_once)

    def rows(part: CheckPart) -> Found:
        for row in crew.rows(part, lambda: run.left_s - 2):
            if part.kind == "ceilings":
                crew.given = row
            beside = {"shape": row.get("shape"), "rows": row.get("rows"), "width": "XL"}.items()
            ours = [each for each in run.rows("steps") if beside <= each.items()]
            if part.kind == "transformers" and ours:
                yield {**row, "our_ms": ours[0]["chosen_ms"], "times_ours": row["token_ms"] / ours[0]["chosen_ms"]}
            else:
                yield row

    try:
        crew.begin_more()
        for part in parts:
            run.section(part.name, lambda part=part: rows(part), after=card_state if part.timed else dict)  # type: ignore[misc]
    finally:
        crew.end()
        run.note(wanted=compared(run.rows))
        for name, kept in run.record["sections"].items():
            wrong = [str(row)[:400] for row in kept["rows"] if not row.get("holds", True)]
            print(f"{name}: {kept['error'] or 'done'}, {kept['seconds']} s", *wrong[:5], sep="\n  ")
        print_rows(run.record["wanted"], as_json=False, title="wanted")


def card_state() -> Mapping[str, str]:
    """By nvidia-smi; nothing where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = done.stdout.partition("\n")[0].split(", ")
    return {"card": dict(zip(SMI, found, strict=True))} if len(found) == len(SMI) else {}  # type: ignore[dict-item]


def gpu_check(
    output: Annotated[Path, typer.Option(help="What was found, as JSON, from the first row on.")] = Path("gpu.json"),
    minutes: Annotated[float, typer.Option(min=0.01, help="For all; what does not fit is skipped.")] = 6.0,
) -> None:
    """The GPU runtime on this card: right, and how fast beside what is wanted.

    Exit code 0: all parts ran, and all that is compared with float32 is near it.
    """
    if not torch.cuda.is_available():
        raise LtsRayError("torch finds no CUDA GPU on this machine: run it where there is one")
    run = CheckRun(output, seconds=60 * minutes)
    versions = {each.name: each.version for each in distributions() if each.name in ("triton", "transformers")}
    run.note(machine=asdict(Machine.here()) | versions | {"cuda": torch.version.cuda}, **card_state())
    check_all(check_parts(CheckScale()), run)
    raise typer.Exit(0 if run.holds else 1)


if __name__ == "__main__":
    run_benchmark(gpu_check)
