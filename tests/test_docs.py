"""What the documentation shows is what happens."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.common import command as bench
from lts_ray.cli import main as cli
from serve import simulate_command
from tests.conftest import ROOT


def command_line() -> Any:
    """With the options of verbs whose words another process reads."""
    command: Any = typer.main.get_command(cli.app)
    command.commands["simulate"] = typer.main.get_command(simulate_command.command())
    return command


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


def test_the_example_of_confidence_routing_decodes(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("docs/decoding.md", "python")
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 48


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
    verbs = command_line().commands
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


PAGES = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
COMMAND = re.compile(r"^ {4}(?:.*(?:\s|/))?(lts-ray [a-z].*|python -m benchmarks\..*)$", re.MULTILINE)
"""A whole command line: those within a sentence leave out what is not their matter."""


def command_lines() -> list[str]:
    """Without comments, pipes and those that stand for many (`…`)."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text(encoding="utf-8"))
        found += [f"{page}: {line.strip()}" for line in COMMAND.findall(text) if "…" not in line]
    return found


def parsed(command: Any, words: list[str]) -> dict[str, Any]:
    """What the command line takes the words for. Raises what it says of wrong ones; nothing is run."""
    name, context = "", command.make_context("command", list(words))
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(words), parent=context)
    return dict(context.params)


def benchmark(module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line of a benchmark, which is not run."""
    functions: list[Callable[..., None]] = []
    monkeypatch.setattr(bench, "run_benchmark", functions.append)
    monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_module(module, run_name="__main__")
    app = typer.Typer(add_completion=False)
    app.command()(functions[0])
    return typer.main.get_command(app)


def test_the_pages_have_command_lines() -> None:
    assert len(command_lines()) > 50
    for wrong in (
        ["search", "--output", "a"],
        ["search", "--targtes", "a"],
        ["serch"],
        ["measure", "--threads", "0"],
        ["simulate", "--flet", "a"],
    ):
        with pytest.raises(Exception, match=r"targets|targtes|serch|at least|or equal to 1|flet"):
            parsed(command_line(), wrong)


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_of_the_pages_is_one(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options exist, none that it needs is left out, its values are of their kinds, and files of ours are there."""
    plain = re.sub(r"\$\w+", "1", line.partition(": ")[2].partition(" | ")[0])  # a shell's variable
    words = shlex.split(plain, comments=True)
    words = [word for word in words if word not in {";", "done"}]
    if words[0] == "lts-ray":
        command, arguments = command_line(), words[1:]
    else:
        command, arguments = benchmark(words[2], monkeypatch), words[3:]
    if "--help" in arguments:
        return
    monkeypatch.chdir(ROOT)
    taken = parsed(command, [word.rstrip(";") for word in arguments])
    config = taken.get("config")
    if config is not None and "/" in str(config):
        assert config.is_file(), f"{config} is not there"


def named_benchmarks() -> list[str]:
    pages = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    return sorted(set(re.findall(r"python -m (benchmarks\.[a-z_]+)", pages)))


@pytest.mark.parametrize("module", named_benchmarks())
def test_every_benchmark_that_a_page_names_says_what_it_does(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(module, monkeypatch).main(["--help"], standalone_mode=False)
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--version", "doctor", "--help"])
def test_what_a_page_has_the_reader_look_at_runs(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lts-ray", arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert (end.value.code or 0, shown.err) == (0, "")
    assert "lts-ray" in shown.out
