from __future__ import annotations

import sys

import pytest

from benchmarks.common.command import names_of, run_command
from lts_ray.errors import LtsRayError


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
