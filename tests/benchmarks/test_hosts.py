from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("said", ["Operation not permitted", None])
def test_without_privileges_or_the_program_it_says_so_in_one_line(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """said: what `ip` answers; None: there is no such program."""
    if said is not None:
        program = tmp_path / "ip"
        program.write_text(f"#!/bin/sh\necho '{said}' >&2; exit 2\n", encoding="ascii")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["hosts"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / "hosts.py"), run_name="__main__")
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1
    assert (said or "iproute2") in lines[0]


def test_an_unknown_scenario_is_refused_before_hosts_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["hosts", "--scenario", "flood"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / "hosts.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "no scenario 'flood'; there are search-killed, search-cut, streams-" in capsys.readouterr().err
