"""No damage to a file that lts-ray reads ends in anything but a result or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz_files
from benchmarks.common.file_kinds import KINDS, Reading, make_files
from benchmarks.common.mutation import mutated
from benchmarks.fuzz_files import damage_kind, reading_only, run_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    make_files(made, np.random.default_rng(0))
    return made


CHEAP = {
    "settings": "train.yaml",
    "targets": "targets.yaml",
    "tables": "table.csv",
    "logs": "search/evaluations.jsonl",
    "configurations": "llama/config.json",
}
"""Of the kinds, those whose readers start in a moment."""


@pytest.mark.parametrize("kind", CHEAP)
def test_damaged_files_are_read_or_refused_in_one_line(kind: str, folder: Path, tmp_path: Path) -> None:
    readings = tuple(reading for reading in KINDS[kind] if reading.file == CHEAP[kind])
    with reading_only(8):
        found = damage_kind(readings, folder, 12, np.random.default_rng(0), kept=tmp_path)
    assert found.violations == [], (tmp_path, found.violations)
    assert found.read + found.refused == 12
    assert found.refused > 0


def test_a_traceback_is_a_violation_and_its_file_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        if not (folder / "a.txt").read_bytes().startswith(b"whole"):
            raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(fuzz_files, "main", main)
    whole = (folder / "a.txt").read_bytes()
    (folder / "a.txt").write_bytes(b"whole")
    readings = (Reading(file="a.txt", commands=("any",)),)
    monkeypatch.setattr(fuzz_files, "mutated", lambda *_: b"damaged")
    found = damage_kind(readings, folder, 2, np.random.default_rng(0), kept=tmp_path)
    (folder / "a.txt").write_bytes(whole)
    assert found.violations == ["ZeroDivisionError: a fault of ours"] * 2
    assert (tmp_path / "0-a.txt").read_bytes() == b"damaged"
    assert "ZeroDivisionError" in (tmp_path / "0.txt").read_text()


@pytest.mark.parametrize("line", ["", "lts-ray: one\nlts-ray: two"], ids=["no line", "two lines"])
def test_anything_but_one_line_is_a_violation(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        print(line, file=fuzz_files.sys.stderr)
        raise SystemExit(2)

    monkeypatch.setattr(fuzz_files, "main", main)
    code, problem = run_command("any", folder)
    assert code == 2
    assert problem is not None


def test_damage_is_drawn_from_the_generator_alone() -> None:
    content = b'{"a": [1, {"b": 2}], "c": "d"}'
    for name in ("x.json", "x.jsonl", "x.yaml", "x.csv", "x.safetensors"):
        first, again = (
            [mutated(content, name, rng) for _ in range(60)]
            for rng in (np.random.default_rng(5), np.random.default_rng(5))
        )
        assert first == again
        assert len(set(first)) > 20
