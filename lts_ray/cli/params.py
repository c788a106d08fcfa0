"""`lts-ray params`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def params(
    space: Annotated[str, typer.Option(help="gpt2, transformer-xl, opt, bert or t5")],
    rows: Annotated[Path, typer.Option("--input", "-i", help="JSON Lines, an architecture a line; - reads stdin.")],
) -> None:
    """Count the parameters of architectures, given as JSON Lines.

    Adds decoder_params, which stand for quality before anything is trained, to each row; total_params where the row
    says n_token, the vocabulary's size. Rows of models with an encoder get encoder_params, and the sum of both stands
    for quality.
    """
    from lts_ray.files import json_text, without_infinities
    from lts_ray.spaces.architecture_row import read_rows
    from lts_ray.spaces.named_spaces import backbone_space

    chosen = backbone_space(space)
    for row in read_rows(rows, lambda row: row.counted(chosen)):
        print(json_text(without_infinities(row)))
