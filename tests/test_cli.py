"""What a person at the terminal sees: results for good input, one line and exit code 2 for bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lts_ray import cli
from lts_ray.models.checkpoint import load_checkpoint

TARGETS = "targets: [{name: here, local: true, sequence_length: 16}]"


def lts_ray(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, as the console script does; its exit code."""
    monkeypatch.setattr(sys, "argv", ["lts-ray", *(str(each) for each in arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else int(bool(end.value.code))


def test_evaluate_prints_a_record_for_each_submodel(
    model_dir: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lts_ray(
        "evaluate", "-m", model_dir, "--text", texts / "*.txt", "-s", "S", "-s", "8,64,16", "--json",
        monkeypatch=monkeypatch,
    )  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["widths"] for row in rows] == [[8, 8, 8], [8, 64, 16]]
    assert all(row["loss_nats"] > 0 and row["tokens"] > 100 for row in rows)


def test_extract_writes_a_checkpoint(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("extract", "-m", model_dir, "-s", "M", "-o", tmp_path / "m", monkeypatch=monkeypatch) == 0
    assert "plain transformers loads it" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "m").model.config.widths == (16, 16, 16)


def test_generate_continues_the_prompt(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("generate", "-m", model_dir, "-p", "the law", "--max-tokens", "5", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("the law")


def test_measure_prints_each_granularity(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lts_ray("measure", "-m", model_dir, "--sequence-length", "16", "--json", monkeypatch=monkeypatch)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["submodel"] for row in rows] == ["S", "M", "L", "XL"]
    memory = [row["peak_memory_mb"] for row in rows]
    assert memory == sorted(memory)


BAD = {
    "unknown submodel": (["evaluate", "-m", "{model}", "-s", "XXL"], "unknown submodel 'XXL'"),
    "no model": (["evaluate", "-m", "nowhere"], "model nowhere is not a folder"),
    "empty text": (["evaluate", "-m", "{model}", "--text", "{empty}"], "has no text in it"),
    "no text": (["evaluate", "-m", "{model}", "--text", "nothing*.txt"], "no file matches"),
    "long prompt": (["generate", "-m", "{model}", "-p", "law " * 99], "do not fit the model's context"),
    "empty prompt": (["generate", "-m", "{model}", "-p", ""], "the prompt is empty"),
    "bad temperature": (["generate", "-m", "{model}", "-p", "a", "--temperature", "-1"], "temperature must be"),
    "full output": (["extract", "-m", "{model}", "-s", "S", "-o", "{model}"], "is not empty"),
    "unknown space": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--space", "gpt5",
                       "--quality", "decoder_params"], "gpt5"),
    "no targets file": (["search", "-m", "{model}", "-t", "none.yaml", "-o", "{out}"], "none.yaml does not exist"),
    "no evaluations": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--evaluations", "0"],
                       "evaluations must be at least 1"),
    "no configuration": (["train", "-c", "none.yaml", "-o", "{out}"], "none.yaml does not exist"),
    "nothing to resume": (["train", "-o", "{out}", "--resume"], "holds no run to resume"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "targets.yaml").write_text(TARGETS)
    places = {
        "{model}": model_dir,
        "{empty}": tmp_path / "empty.txt",
        "{targets}": tmp_path / "targets.yaml",
        "{out}": tmp_path / "out",
    }
    assert lts_ray(*(places.get(each, each) for each in arguments), monkeypatch=monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_help_loads_neither_torch_nor_ray() -> None:
    """`--help` has to be quick; both take seconds to load."""
    code = "import sys, lts_ray.cli; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_report_of_a_folder_without_a_search_is_refused(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("report", "--search", tmp_path, "-m", model_dir, monkeypatch=monkeypatch) == 2
    assert "holds no search" in capsys.readouterr().err
