"""`lts-ray`: its verbs, and how a problem is told."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.commands import (
    bench,
    bench_axes,
    bench_decoding,
    bench_matformer,
    bench_scaling,
    bench_supernet,
    bench_training,
    elasticize,
    evaluate,
    model,
    search,
    tables,
    vision,
)
from lts_ray.errors import LtsRayError

app = typer.Typer(
    name="lts-ray",
    help="Train one nested Transformer, search its submodels on real hardware, and serve the right one per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("runs/quickstart"),
) -> None:
    """Train on, search, serve and ask: the whole way in a few minutes. Run again, it goes on where it stopped."""
    from lts_ray.quickstart import run_quickstart

    run_quickstart(output)


VERBS = (
    tables.params,
    search.search,
    tables.replay,
    tables.proxies,
    model.measure,
    model.train,
    evaluate.evaluate,
    elasticize.elasticize,
    model.extract,
    model.generate,
    search.report,
)
for verb in VERBS:
    app.command()(verb)
for benchmark in (
    bench_matformer.matformer,
    bench_axes.axes,
    bench_scaling.scaling,
    bench_supernet.supernet,
    bench_training.training_step,
    bench_decoding.speculation,
    bench_decoding.confidence,
):
    bench.app.command()(benchmark)
for found in sorted(entry_points(group="lts_ray.bench"), key=lambda each: each.name):
    bench.app.command(name=found.name)(found.load())
app.add_typer(bench.app, name="bench")
app.add_typer(vision.app, name="vit")


def main() -> None:
    """Run a verb. A problem the user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except LtsRayError as error:
        print(f"lts-ray: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
