"""`python -m benchmarks NAME`: what the project claims of itself, measured here."""

from __future__ import annotations

import sys

import typer

from benchmarks.verbs import bench_scaling
from lts_ray.errors import LtsRayError

app = typer.Typer(no_args_is_help=True)
for benchmark in (bench_scaling.scaling,):
    app.command()(benchmark)

if __name__ == "__main__":
    try:
        app()
    except LtsRayError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise SystemExit(2) from None
