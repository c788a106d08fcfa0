"""The stages of the quickstart, in order. A stage that is done is not done again; one that was cut off goes on.

Every stage runs as a command of its own, printed before it starts, so that the quickstart shows what to type.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json, write_text
from lts_ray.lock import exclusive
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.quickstart.ask import ask_all, print_answers
from lts_ray.quickstart.endpoint import endpoint, serve_command

EVALUATIONS = 10
"""Enough for a front to choose from; on both targets they take little more than a minute on two cores."""
SERVED_TARGET = "one-thread"
"""The other core is for the proxy, the event loop and the client: docs/serve.md has the figures."""
TARGETS = [
    {"name": SERVED_TARGET, "label_selector": {"role": "small"}, "resources": {"small": 1}, "threads": 1},
    {"name": "two-threads", "label_selector": {"role": "large"}, "resources": {"large": 1}, "threads": 2},
]


@dataclass(frozen=True)
class QuickstartFolder:
    path: Path

    @property
    def search(self) -> Path:
        return self.path / "search"

    @property
    def frontier(self) -> Path:
        return self.search / "frontier.json"

    @property
    def report(self) -> Path:
        return self.search / "report.html"

    @property
    def answers(self) -> Path:
        return self.path / "answers.json"

    @property
    def serve_config(self) -> Path:
        return self.path / "serve.yaml"


def run_quickstart(output: Path) -> None:
    """Run what is not done yet, then print the results. Raises LtsRayError when a stage fails."""
    folder = QuickstartFolder(output.resolve())
    console = Console(highlight=False)
    try:
        with exclusive(folder.path, "quickstart", what="quickstart"):
            search_stage(folder, console)
            serve_stage(folder, console)
    except KeyboardInterrupt:
        raise LtsRayError("interrupted; the same command goes on from here") from None
    console.print("\n[bold]3. Where things are[/bold]")
    print(f"the report to look at       {os.path.relpath(folder.report)}")
    print(f"the frontier for serving    {os.path.relpath(folder.frontier)}")
    print(f"the model                   {os.path.relpath(DEFAULT_MODEL)}")
    print("keep the endpoint up        make serve")
    print(f"                        or  {serve_command(folder.serve_config)}")


def search_stage(folder: QuickstartFolder, console: Console) -> None:
    console.print("\n[bold]1. Search[/bold]: submodels of the model that ships, measured on two simulated nodes")
    targets = folder.path / "targets.yaml"
    write_text(targets, yaml.safe_dump({"targets": TARGETS}, sort_keys=False))
    started = (folder.search / "evaluations.jsonl").exists()
    command: list[str | Path] = ["search", "--simulate", "--model", DEFAULT_MODEL, "--targets", targets]
    command += ["--evaluations", str(EVALUATIONS), "--blocks", "8", "--output", folder.search]
    run_command([*command, *(["--resume"] if started else [])], console, done=folder.report.exists())


def serve_stage(folder: QuickstartFolder, console: Console) -> None:
    console.print("\n[bold]2. Serve and ask[/bold]: budgets that this endpoint can keep, and one that it cannot")
    write_text(folder.serve_config, yaml.safe_dump(serve_yaml(folder), sort_keys=False))
    if folder.answers.exists():
        console.print("[dim]done already[/dim]")
    else:
        with endpoint(folder.serve_config, log=folder.path / "serve.log", console=console) as url:
            answers = ask_all(url)
        write_json(folder.answers, {"answers": answers})
    print_answers(read_json(folder.answers, what="answers")["answers"])


def serve_yaml(folder: QuickstartFolder) -> dict[str, Any]:
    """A Ray Serve configuration of our endpoint with the quickstart's model and frontier."""
    args = {"model": str(DEFAULT_MODEL), "frontier": str(folder.frontier), "target": SERVED_TARGET, "anywhere": True}
    application = {"name": "lts-ray", "route_prefix": "/", "import_path": "serve.app:build", "args": args}
    return {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": [application]}


def run_command(arguments: list[str | Path], console: Console, *, done: bool) -> None:
    """Print an `lts-ray` command and run it; raise LtsRayError if it fails."""
    shown = [os.path.relpath(argument) if isinstance(argument, Path) else argument for argument in arguments]
    console.print(f"[dim]$ lts-ray {shlex.join(shown)}[/dim]", soft_wrap=True)
    if done:
        console.print("[dim]done already[/dim]")
        return
    process = subprocess.Popen([sys.executable, "-m", "lts_ray.cli.main", *shown])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise
    if code:
        raise LtsRayError(f"the quickstart stopped in `lts-ray {shown[0]}`; the same command goes on from there")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a command say its last line. Ctrl-C in a terminal has reached it, too; another signal has not."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
