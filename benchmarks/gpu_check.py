"""Does the GPU runtime compute what the model computes, how fast, and beside what the card could do?

One run of under five minutes on a machine with a card: tests of the kernels, errors against float32, steps, prompts,
training and the engine, the most important first. What there is is in the output file at any moment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.command import run_benchmark
from benchmarks.common.machine import Machine
from benchmarks.gpu.check_run import CardLostError, CheckRun, Found
from benchmarks.gpu.check_scale import LARGE, SMALL, CheckScale
from benchmarks.gpu.logit_errors import logit_errors
from benchmarks.gpu.prepared_process import BEGIN, MEASURES, PreparedProcess
from benchmarks.gpu.shape_times import ShapeTimes
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError

ROOT = Path(__file__).parents[1]
OPTIONS = ("-q", "-W", "ignore", "--tb=short", "-p", "no:cacheprovider", "-p", "xdist", "-n")


def _row(shape: str, rows: int, width: str) -> Mapping[str, tuple[object, ...]]:
    return {"shape": (shape,), "rows": (rows,), "width": (width,)}


MOST, LEAST = "at most", "at least"
WANTED: Sequence[tuple[str, str, float, str, str, Mapping[str, tuple[object, ...]]]] = (
    ("ms of a step, 1B, 1 row, XL", MOST, 1.0, "steps", "device_ms", _row(LARGE, 1, "XL")),
    ("ms of a step, 1B, 1 row, S", MOST, 0.5, "steps", "device_ms", _row(LARGE, 1, "S")),
    ("ms of a step, 1B, 32 rows, XL", MOST, 1.2, "steps", "device_ms", _row(LARGE, 32, "XL")),
    ("ms of a step, 1B, 32 rows, S", MOST, 0.7, "steps", "device_ms", _row(LARGE, 32, "S")),
    ("ms of a step, 135M, 1 row, XL", MOST, 0.5, "steps", "device_ms", _row(SMALL, 1, "XL")),
    ("times the floor, 128 rows", MOST, 3, "steps", "times_floor", {"rows": (128,)}),
    ("a mixed step over its widest", MOST, 1.1, "steps", "over_widest", {"width": ("mixed",)}),
    ("of what bytes promise, 1B", LEAST, 0.75, "steps", "kept", {"shape": (LARGE,), "width": ("L", "M", "S")}),
    ("times transformers, 1 row", LEAST, 3, "transformers", "times_ours", {"rows": (1,)}),
    ("times transformers, 32 rows", LEAST, 8, "transformers", "times_ours", {"rows": (32,)}),
    ("prompts, of the chip's rate, 1B", LEAST, 0.4, "prompts", "of_chip_rate", {"shape": (LARGE,), "width": ("XL",)}),
    ("a joint step over the plain ones", MOST, 0.85, "training", "ratio", {}),
    ("a joint step, of the chip's rate", LEAST, 0.35, "training", "of_chip_rate", {"d_model": (1_024,)}),
    ("a logit's error, bfloat16", MOST, 2e-2, "errors", "worst", {"dtype": ("bfloat16",)}),
)
"""What it is; the limit; the section and its figure; which rows it is about. All in bfloat16, 256 tokens before."""


def check_sections(scale: CheckScale, run: CheckRun) -> None:
    """The most important first. Processes that have to compile begin at once, beside what is not timed.

    Raises CardLostError.
    """
    shape, on_card = cache(lambda name: ShapeTimes(name, scale)), scale.device.type == "cuda"
    rivals = [("generate_times", shape, str(rows)) for rows in scale.rival_rows for shape in scale.shapes]
    trainings = [("joint_steps", str(width)) for width in scale.d_models]
    warmed = [
        ("compiled", name, str(dtype).removeprefix("torch."), "16") for name in scale.shapes for dtype in scale.exact
    ]
    alone = [("kernel_times", name, str(rows)) for rows in (1, 32, 128) for name in scale.shapes]
    processes = {work: PreparedProcess((*BEGIN, *work)) for work in (*warmed, *rivals, *trainings) if on_card}

    def ceilings() -> Found:
        for process in processes.values():  # nothing is timed beside them, and half of the time is left then
            process.wait(run.left_s - 0.5 * run.seconds)
        copied, multiplied = scale.ceilings
        yield {"copy_tb_per_s": copied / 1e12, "tflop_per_s": multiplied / 1e12}

    def result(work: tuple[str, ...]) -> dict[str, Any]:
        """Of its process, or of a call where none was begun."""
        return dict(
            processes[work].result(run.left_s) if on_card else MEASURES[work[0]](scale, *work[1:-1], int(work[-1]))
        )

    def transformers() -> Found:
        ours = {(row["shape"], row["rows"]): row["chosen_ms"] for row in run.rows("steps") if row["width"] == "XL"}
        for work in rivals:
            found = result(work)
            if mine := ours.get((found.get("shape"), found.get("rows"))):
                found |= {"our_ms": mine, "times_ours": found["token_ms"] / mine}
            yield found

    def training() -> Found:
        for work in trainings:
            found = result(work)
            yield found | {"of_chip_rate": found.get("flop_per_s", 0) / scale.ceilings[1]}

    def kernels_alone() -> Found:
        processes.update({work: PreparedProcess((*BEGIN, *work)) for work in alone})
        for work in alone:
            found = result(work)
            yield from found.get("rows", [found])

    try:
        if on_card:
            run.section("tests", 20, lambda: kernel_tests(scale.tests, seconds=110))
            run.section("compiling", 10, lambda: (processes[work].result(run.left_s / 2) for work in warmed))
        run.section("errors", 10, lambda: logit_errors(scale))
        run.section("ceilings", 2, ceilings)
        run.section("steps", 10, lambda: chain.from_iterable(shape(name).steps() for name in scale.shapes))
        run.section("transformers", 5, transformers)
        run.section("prompts", 5, lambda: chain.from_iterable(shape(name).prompts() for name in scale.shapes))
        run.section("training", 10, training)
        run.section("engine", 10, lambda: shape(SMALL).streams())
        if on_card:
            run.section("kernels alone", 40, kernels_alone)
    finally:
        for process in processes.values():
            process.end()


def kernel_tests(tests: Sequence[str], *, seconds: float, workers: int = 6) -> Found:
    """How many passed. They may import what tests/conftest.py does, and what is on a machine with a card."""
    command = ["timeout", str(seconds), sys.executable, "-m", "pytest", *tests, *OPTIONS, str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_PLUGINS": "benchmarks.gpu"}  # before any conftest.py
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", ended.stdout)}
    if ended.returncode:
        print(ended.stdout[-6_000:], ended.stderr[-1_000:])
    yield {"exit_code": ended.returncode, **counts, "holds": not ended.returncode}


def compared(rows: Callable[[str], Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The worst figure of each that is wanted. rows: of a section; those of what failed have no figures."""
    found = []
    for name, sense, limit, section, figure, where in WANTED:
        about = [row for row in rows(section) if figure in row and all(row.get(key) in where[key] for key in where)]
        worst = (max if sense == MOST else min)([row[figure] for row in about], default=None)
        met = worst is not None and (worst <= limit if sense == MOST else worst >= limit)
        found.append({"what": name, "wanted": f"{sense} {limit:g}", "measured": worst, "met": met})
    return found


def card() -> Mapping[str, Any]:
    """What figures hold for."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return asdict(Machine.here()) | {"driver": driver, "triton": version("triton"), "cuda": torch.version.cuda}


def gpu_check(
    output: Annotated[Path, typer.Option(help="What was found, as JSON, from the first row on.")] = Path("gpu.json"),
    minutes: Annotated[float, typer.Option(min=0.01, help="For all; what does not fit is skipped.")] = 4.5,
    resume: Annotated[bool, typer.Option(help="Leave out the sections that the output has.")] = False,
) -> None:
    """The GPU runtime on this card: right, and how fast beside what is wanted.

    Exit code 0: all sections ran, and all that is compared with float32 is near it.
    """
    if not torch.cuda.is_available():
        raise LtsRayError("torch finds no CUDA GPU on this machine: run it where there is one")
    run = CheckRun(output, seconds=60 * minutes, resume=resume)
    run.note(card=card())
    try:
        check_sections(CheckScale(), run)
    except CardLostError:
        again = ["--output", str(output), "--minutes", str(max(run.left_s / 60, 0.01)), "--resume"]
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_check", *again])
    run.note(wanted=compared(run.rows))
    print_rows(run.record["wanted"], as_json=False, title="wanted")
    raise typer.Exit(0 if run.holds else 1)


if __name__ == "__main__":
    run_benchmark(gpu_check)
