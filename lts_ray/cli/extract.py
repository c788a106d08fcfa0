"""`lts-ray extract`."""

from __future__ import annotations

from typing import Annotated

import typer

from lts_ray.cli.options import SUBMODEL, Model, Output
from lts_ray.pretrained import DEFAULT_MODEL


def extract(
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)],
    output: Output,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Write a submodel as a checkpoint of its own, of its size."""
    from lts_ray.checkpoints.extracted import extract_checkpoint

    extracted = extract_checkpoint(model, submodel, output)
    loads = (
        "plain transformers loads it" if extracted.is_plain else "transformers has no such model, so lts-ray loads it"
    )
    print(f"The submodel {extracted.submodel.text} is in {output}; {loads}")
