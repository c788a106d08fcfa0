"""`python -m benchmarks NAME`: what the project claims of itself, measured here."""

from __future__ import annotations

import sys

from benchmarks.load import commands
from benchmarks.verbs import (
    bench,
    bench_axes,
    bench_decoding,
    bench_matformer,
    bench_scaling,
    bench_supernet,
    bench_training,
)
from lts_ray.errors import LtsRayError

for benchmark in (
    bench_matformer.matformer,
    bench_axes.axes,
    bench_scaling.scaling,
    bench_supernet.supernet,
    bench_training.training_step,
    bench_decoding.speculation,
    commands.policies,
    commands.soak,
    commands.endpoint,
):
    bench.app.command()(benchmark)

if __name__ == "__main__":
    try:
        bench.app()
    except LtsRayError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise SystemExit(2) from None
