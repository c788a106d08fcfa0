"""`lts-ray quickstart`."""

from __future__ import annotations

from pathlib import Path

from lts_ray.cli.options import Output


def quickstart(output: Output = Path("runs/quickstart")) -> None:
    """Begin here: search, serve and ask, in two minutes.

    Run again, it goes on where it stopped.
    """
    from lts_ray.quickstart import run_quickstart

    run_quickstart(output)
