from __future__ import annotations

import re
import runpy
import sys
from importlib import import_module

import pytest
import typer

from benchmarks.common.command import names_of, run_benchmark
from lts_ray.errors import LtsRayError
from tests.conftest import ROOT

CLAIMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_a_command_with_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "Usage:" in capsys.readouterr().out


def test_the_documentation_lists_every_claim_and_no_option_that_there_is_not() -> None:
    """All `python -m benchmarks.NAME --option` of the docs, against the commands' own parameters."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    options: dict[str, set[str]] = {}
    for name, rest in re.findall(r"python -m benchmarks\.(\w+)([^`\n]*)", text):
        options.setdefault(name, set()).update(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
    assert sorted(options) == CLAIMS
    for name, used in options.items():
        app = typer.Typer()
        app.command()(getattr(import_module(f"benchmarks.{name}"), name))
        known = {option for parameter in typer.main.get_command(app).params for option in parameter.opts} | {"--help"}
        assert used <= known, f"{name}: {sorted(used - known)}"


def test_a_problem_the_user_can_mend_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(rounds: int = 3) -> None:
        raise LtsRayError(f"at most 2 rounds; got {rounds}")

    monkeypatch.setattr(sys, "argv", ["measure", "--rounds", "5"])
    with pytest.raises(SystemExit) as ended:
        run_benchmark(measure)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "measure: at most 2 rounds; got 5\n"


def test_names_are_what_stands_between_commas() -> None:
    assert names_of(" S, XL,,") == ["S", "XL"]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_named_as_its_file_and_says_what_each_option_is(name: str) -> None:
    app = typer.Typer()
    app.command()(getattr(import_module(f"benchmarks.{name}"), name))
    command = typer.main.get_command(app)
    assert command.help
    for option in command.params:
        if option.name not in ("install_completion", "show_completion"):
            text = getattr(option, "help", None)
            assert text, f"{option.name} says nothing of itself"
            assert "the same" not in text.lower().split("."), f"{option.name} is only told by another option"
