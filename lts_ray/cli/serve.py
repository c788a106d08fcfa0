"""`lts-ray serve`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="model=DIR frontier=FILE …, or one YAML file of Ray Serve; none: the model that ships."),
    ] = None,
) -> None:
    """Serve a model until Ctrl-C: Ray's `serve run`, once what it is given is checked.

    docs/serve.md has the arguments.
    """
    # In a process that is Ray's command in the end, and in which a serve.py of the current folder is not in the way.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "serve.ray_command", *(arguments or [])])
