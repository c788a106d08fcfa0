"""`lts-ray params`."""

from __future__ import annotations

import json
import sys
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
    from lts_ray.errors import LtsRayError
    from lts_ray.spaces.counting import counted
    from lts_ray.spaces.named_spaces import backbone_space

    chosen = backbone_space(space)
    if str(rows) == "-":
        lines = sys.stdin.read().splitlines()
    else:
        try:
            lines = rows.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LtsRayError(f"rows {rows} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            print(json.dumps(counted(line, chosen, where=f"{rows}, line {number}")))
