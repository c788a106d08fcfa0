"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lts_ray.files import check_output


def _folder(output: Path) -> Path:
    """Before any work."""
    check_output(output)
    return output


def _file(output: Path | None) -> Path | None:
    if output is not None:
        check_output(output.parent)
    return output


Model = Annotated[Path, typer.Option("--model", "-m", show_default="the model that ships", help="Checkpoint folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.", callback=_folder)]
OutputFile = Annotated[Path | None, typer.Option("--output", "-o", help="File for the results: JSON.", callback=_file)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --output holds.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: RAY_ADDRESS, else a local one.")]
DeviceName = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="cpu, cuda, or auto: a GPU where there is one.")
]
TrainingDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option("--device", help="auto: a GPU where there is one; default: the configuration's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines instead of a table.")]
Text = Annotated[
    str | None,
    typer.Option(
        help="Text file or glob, cut into sequences (a last shorter one is left out); "
        "default: what the model's training held out, which the checkpoint carries."
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        show_default="sotu, where the checkpoint carries no text", help="Corpus whose held-out documents are the text."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of what is drawn at random.")]
"""Torch takes no more than 64 bits, and a bench counts up from it."""
SUBMODEL = (
    "S, M, L, XL, a fraction such as 0.5, or one width per layer such as 352,704,2816; "
    "where heads and d_model nest, 352/4,704/8,2816/8@192; any of these @int8, @int4 or another precision"
)


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
