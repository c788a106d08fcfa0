"""`lts-ray extract`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lts_ray.cli.options import SUBMODEL, Model, Output
from lts_ray.pretrained import DEFAULT_MODEL


def extract(
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)],
    output: Output,
    model: Model = DEFAULT_MODEL,
    form: Annotated[
        Literal["safetensors", "gguf"], typer.Option("--format", help="gguf: a file for llama.cpp, model.gguf.")
    ] = "safetensors",
) -> None:
    """Write a submodel as a checkpoint of its own, of its size.

    One in int8 or int4 (S@int8) holds its matrices in no more than that; of GGUF these are Q8_0 and Q4_0.
    """
    from lts_ray.checkpoints.extracted import extract_checkpoint

    extracted = extract_checkpoint(model, submodel, output, as_gguf=form == "gguf")
    print(f"The submodel {extracted.submodel.text} is in {output}; {extracted.loads}")
