"""`lts-ray serve` and `lts-ray simulate`, which hand over to the endpoint's package."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

HANDED_OVER = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""All words go to the process that knows them, `--help` among them."""


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
    become("serve.ray_command", arguments or [])


def simulate(context: typer.Context) -> None:
    """Simulate a fleet under a load in virtual time: budgets kept, quality, replicas and what they cost."""
    become("serve.simulate_command", context.args)


def become(module: str, words: Sequence[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *words])
