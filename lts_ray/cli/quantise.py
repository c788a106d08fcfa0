"""`lts-ray quantise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import DeviceName, Json


def quantise(
    model: Annotated[Path, typer.Option("--model", "-m", help="Checkpoint folder, which gets the file.")],
    corpus: Annotated[
        str | None, typer.Option(help="Corpus, file or glob whose training documents calibrate; default: sotu.")
    ] = None,
    blocks: Annotated[int, typer.Option(min=1, help="Sequences of 256 tokens to calibrate on.")] = 64,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Find on text how a checkpoint's matrices are best rounded to 8 and 4 bits.

    That is quantised.safetensors beside the weights, which all that runs the checkpoint takes from then on; without it
    they are rounded to the nearest. What either loses on held-out text is printed, in nats per token.
    """
    from dataclasses import asdict

    from lts_ray.console import print_rows
    from lts_ray.device import device_here
    from lts_ray.elasticize.calibration import calibrate

    rows = calibrate(model, corpus=corpus, blocks=blocks, device=device_here(device, what="--device"))
    print_rows([asdict(row) for row in rows], as_json=as_json)
