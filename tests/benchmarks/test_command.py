from __future__ import annotations

import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.common.command import names_of, run_command
from lts_ray.errors import LtsRayError
from tests.conftest import ROOT


def test_a_problem_the_user_can_mend_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(rounds: int = 3) -> None:
        raise LtsRayError(f"at most 2 rounds; got {rounds}")

    monkeypatch.setattr(sys, "argv", ["measure", "--rounds", "5"])
    with pytest.raises(SystemExit) as ended:
        run_command(measure)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "measure: at most 2 rounds; got 5\n"


def test_names_are_what_stands_between_commas() -> None:
    assert names_of(" S, XL,,") == ["S", "XL"]


COMMANDS = [
    path.stem
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if f"run_command({path.stem})" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_as_its_file_and_its_help_says_what_each_option_is(name: str) -> None:
    app = typer.Typer()
    app.command()(getattr(import_module(f"benchmarks.{name}"), name))
    command = typer.main.get_command(app)
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    assert command.help
    for option in command.params:
        if option.name not in ("install_completion", "show_completion"):
            text = getattr(option, "help", None)
            assert text, f"{option.name} says nothing of itself"
            assert "the same" not in text.lower().split("."), f"{option.name} is only told by another option"
