"""Absurd numbers: every numeric option of every verb refuses them, or does what they say, without a traceback."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.common.file_kinds import make_files
from benchmarks.fuzz_files import reading_only, run_command
from lts_ray.cli.main import app

COMMANDS = {
    "train": "train -c IN/tiny.yaml -o OUT --architecture IN/architectures.json --name 1M",
    "elasticize": "elasticize -m IN/llama -c IN/elasticize.yaml -o OUT",
    "search": "search -t IN/targets.yaml -s gpt2 -o OUT",
    "evaluate": "evaluate -m IN/llama --text IN/a.txt -s S --json",
    "quantise": "quantise -m IN/llama --corpus IN/a.txt --json",
    "measure": "measure -m IN/llama -s S",
    "generate": "generate -m IN/llama -p law -s S",
    "replay": "replay -t IN/table.csv --objectives perplexity,latency_ms -n 5 --seeds 1",
    "proxies": "proxies --space gpt2 -i IN/rows.jsonl --proxies decoder_params",
    "vit train": "vit train -c IN/vit.yaml -o OUT",
}
ABSURD = ("-1", "0", "nan", "1e400", "99999999999999", "1" + "0" * 30)


def commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for part, inner in getattr(command, "commands", {"": command}).items():
            yield f"{name} {part}".strip(), inner


def numeric_options() -> Iterator[tuple[str, str]]:
    for verb, command in commands():
        for parameter in command.params:
            if re.search(r"\b(int|float)\b", repr(parameter.type_descriptor.annotation)):
                yield verb, max(parameter.opts, key=len)


OPTIONS = sorted(numeric_options())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    make_files(made, np.random.default_rng(0))
    return made


@pytest.mark.parametrize(("verb", "option"), OPTIONS, ids=[" ".join(each) for each in OPTIONS])
def test_an_absurd_number_is_refused_or_taken_at_its_word(verb: str, option: str, folder: Path) -> None:
    bad = {}
    with reading_only(4):
        for value in ABSURD:
            code, problem = run_command(f"{COMMANDS[verb]} {option}={value}", folder)
            is_usage = code == 2 and problem is not None and "Invalid value" in problem
            if problem is not None and not is_usage:
                bad[value] = problem.splitlines()[-3:]
            shutil.rmtree(folder / "out", ignore_errors=True)
    assert bad == {}
