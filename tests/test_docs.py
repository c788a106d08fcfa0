"""What the documentation shows is what happens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import numpy as np

from lts_ray.cli import main as cli
from tests.conftest import ROOT


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_example_of_a_new_space_is_one() -> None:
    (code,) = blocks("docs/spaces.md", "python")
    found: dict[str, Any] = {}
    exec(code, found)
    space = found["SPACE"]
    candidate = space.sample(np.random.default_rng(0))
    assert space.contains(candidate)
    assert candidate.n_layer in (2, 4, 6)


def test_the_example_of_params_prints_what_is_shown() -> None:
    (session,) = [each for each in blocks("docs/spaces.md", "") if each.startswith("$ echo")]
    command, shown = session.splitlines()
    row, _, arguments = command.removeprefix("$ echo ").partition(" | lts-ray ")
    printed = subprocess.run(
        [sys.executable, "-m", "lts_ray.cli.main", *shlex.split(arguments)],
        input=shlex.split(row)[0],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == shown


def test_every_verb_and_option_in_the_documentation_exists() -> None:
    """All `lts-ray VERB --option` of README and docs, against the command line's own parameters."""
    import typer

    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    groups = {name: each.commands for name, each in verbs.items() if hasattr(each, "commands")}
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    found = re.findall(r"lts-ray ([a-z]+)( [a-z][a-z-]+)?([^`\n]*)", text)
    seen = set()
    for verb, second, rest in found:
        if verb not in verbs:
            continue
        command = groups.get(verb, {}).get(second.strip(), verbs[verb])
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.split("|")[0]))
        assert used <= known, f"lts-ray {verb}: {sorted(used - known)}"
        seen.add(verb)
    assert {"search", "replay", "params", "proxies", "train", "measure", "report"} <= seen
