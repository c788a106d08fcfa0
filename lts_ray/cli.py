"""`lts-ray`: one function a verb. Each parses, calls and prints; libraries that load slowly are imported when used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.errors import LtsRayError

app = typer.Typer(
    name="lts-ray",
    help="Train one nested Transformer, search its submodels on real hardware, and serve the right one per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --output holds.")]
Address = Annotated[
    str | None, typer.Option("--address", envvar="RAY_ADDRESS", help="Ray cluster; none starts a local one.")
]


@app.command()
def params() -> None:
    pass


@app.command()
def train(
    output: Output,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with model, data and training.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this checkpoint's weights and tokenizer.")] = None,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Train a universal model with the MatFormer joint objective; the checkpoint is OUTPUT/model."""
    from dataclasses import replace

    from lts_ray.training.settings import RunSettings, load_settings
    from lts_ray.training.trainer import run_training

    settings = RunSettings() if config is None else load_settings(config)
    if init_from is not None:
        settings = replace(settings, init_from=str(init_from))
    model = run_training(settings, output, resume=resume, address=address)
    print(f"The checkpoint is in {model}; the log is {output / 'metrics.jsonl'}")


def main() -> None:
    """Run a verb. A problem the user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except LtsRayError as error:
        print(f"lts-ray: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("lts-ray: interrupted; add --resume to go on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
