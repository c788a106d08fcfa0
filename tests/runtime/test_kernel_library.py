"""Whoever runs without the kernels is told why, and the command that mends it."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from pathlib import Path

import pytest

from lts_ray.cli import main as cli
from lts_ray.runtime import kernel_library


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A clone without kernels."""
    folder = tmp_path / "lts_ray" / "runtime"
    folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    return folder


def problem_of(package: Path) -> str:
    problem = kernel_library._load(package)
    assert isinstance(problem, str)
    assert "\n" not in problem
    return problem


@pytest.mark.parametrize("compiler", [None, "/usr/bin/cc"], ids=["no compiler", "compiler"])
def test_kernels_that_are_not_compiled_have_a_remedy(
    package: Path, compiler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: compiler)
    problem = problem_of(package)
    assert problem.startswith("the kernels are not compiled, so plain torch runs")
    assert problem.endswith(f"run: {sys.executable} -m pip install --no-deps --editable {package.parents[1]}")
    assert ("install a C compiler" in problem) == (compiler is None)


def test_kernels_of_other_sources_and_broken_ones_are_not_called_a_missing_compiler(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package / f"_kernels{kernel_library.EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"no library")
    assert "cannot be used" in problem_of(package)
    kernel_library._load.cache_clear()
    compiled = Path(kernel_library.__file__).parent / file.name
    if not compiled.exists():
        pytest.skip(str(kernel_library.kernel_problem()))
    shutil.copy(compiled, file)
    monkeypatch.setitem(kernel_library.LAYOUT, "panel", -1)
    problem = problem_of(package)
    assert "compiled from other sources (panel)" in problem
    assert "--editable" in problem
    kernel_library._load.cache_clear()


@pytest.mark.parametrize("problem", [None, "the kernels are not compiled; run: pip"], ids=["compiled", "missing"])
def test_the_doctor_and_measure_tell_of_missing_kernels(
    problem: str | None, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = ctypes.CDLL(None)
    monkeypatch.setattr(kernel_library, "_load", lambda _: library if problem is None else problem)
    monkeypatch.setattr(kernel_library, "thread_steps", lambda _: [1, 2])
    for arguments in (["doctor", "--json"], ["measure", "-m", str(model_dir), "-s", "XXL"]):
        monkeypatch.setattr(sys, "argv", ["lts-ray", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr()
        if arguments[0] == "doctor":
            rows = {row["what"]: row["here"] for row in map(json.loads, said.out.splitlines())}
            assert {"python", "torch", "ray", "tokenizers", "numpy", "transformers", "CPU", "memory", "GPU"} < set(rows)
            assert rows["kernels"] == (problem or "compiled; this CPU runs 2 of their variants")
        else:
            assert said.err.startswith(f"warning: {problem}\n" if problem else "lts-ray: unknown submodel")


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lts-ray", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("lts-ray 0.")
