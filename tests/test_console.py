"""Long work is seen: on a terminal in lines that fit it, and anywhere else by plain lines."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lts_ray.console import PlainProgress, first_fitting, progress_bars
from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.elasticize.elasticize_settings import load_elasticize_settings
from lts_ray.files import append_json_line
from lts_ray.measurement.on_ray.pinned_worker import PoolStatus
from lts_ray.search.on_ray import search_progress
from lts_ray.training import training_progress
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.training_progress import shown_training


def plain(width: int = 80) -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, width=width)


def test_a_stage_is_told_at_once_and_its_state_every_ten_seconds() -> None:
    out, console = plain()
    now = [0.0]
    progress = PlainProgress(console, clock=lambda: now[0])
    progress.show("reading", "0 of 8")
    for second in range(1, 26):
        now[0] = float(second)
        progress.show("reading", f"{second // 5} of 8")
        progress.remind()
    progress.show("training", "0 of 3")
    assert out.getvalue().splitlines() == [
        "reading: 0 of 8",
        "reading: 2 of 8, 0:10",
        "reading: 4 of 8, 0:20",
        "training: 0 of 3",
    ]


def test_a_long_step_that_tells_nothing_is_reminded_of() -> None:
    out, console = plain()
    seen = threading.Event()
    progress = PlainProgress(console, every_s=0.01)
    with progress.running():
        progress.show("measuring", "1 of 4")
        for _ in range(1000):
            if out.getvalue().count("measuring") > 2:
                seen.set()
                break
            seen.wait(0.05)
    assert seen.is_set()


def test_progress_is_plain_lines_on_stderr_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as show:
        show("evaluating", 0, 1200)
        show("evaluating", 7, 1200)
        show("comparing", 1, 2)
    found = capsys.readouterr()
    assert found.err.splitlines() == ["evaluating: 0 of 1,200", "comparing: 1 of 2"]
    assert not found.out


def test_elasticize_tells_its_stages(
    model_dir: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_elasticize_settings(None, source=str(model_dir), corpus=str(texts / "*.txt"), steps=0)
    short = type(settings).from_json({"source": settings.source, "data": {"corpus": settings.data.corpus},
                                      "training": {"sequence_length": 16}, "fine_tune": False})  # fmt: skip
    elasticize(short, tmp_path / "run")
    stages = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(stages)) == [
        "reading the text",
        "tokenizing",
        "importance of neurons",
        "comparing (prefix)",
        "comparing (importance)",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_trainings_line_fits_the_terminal_with_its_counts_and_a_loss_whole(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_progress, "POLL_S", 0.01)
    folder = RunFolder(tmp_path)
    losses = {"S": 3.6012, "M": 3.5012, "L": 3.4012, "XL": 3.2971}
    append_json_line(folder.metrics, {"step": 1200, "loss": losses, "tokens_per_s": 1234.5})
    out = io.StringIO()
    with shown_training(folder, 3600, console=Console(file=out, width=width, force_terminal=True, color_system=None)):
        pass
    line = out.getvalue().replace("\n", "\r").split("\r")[-2]
    shown = line.split("\x1b[2K")[-1]
    assert "1200/3600" in shown
    assert "…" not in shown
    assert "3.297" in shown
    assert ("1,234 tokens/s" in shown) == (width >= 80)
    assert len(shown.rstrip()) <= width


def test_a_training_that_is_piped_tells_its_steps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    out, console = plain()
    with shown_training(folder, 3600, console=console):
        append_json_line(folder.metrics, {"step": 1200, "loss": {"S": 3.6, "XL": 3.3}, "tokens_per_s": 1234.5})
        append_json_line(folder.metrics, {"step": 1200, "validation_loss": {"S": 3.7, "XL": 3.4}})
    assert out.getvalue().splitlines() == [
        "training: of 3,600 steps, starting",
        "step 1200: validation S 3.700 XL 3.400",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_searchs_lines_fit_the_terminal_with_their_counts_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(search_progress, "error_console", lambda: console)
    session: Any = SimpleNamespace(
        plan=SimpleNamespace(
            settings=SimpleNamespace(evaluations=200), targets=[SimpleNamespace(name="cpu-small")] * 2
        ),
        outcomes=dict.fromkeys(range(33)),
        front=lambda _: range(12),
        hypervolume=lambda _: 0.8125,
    )
    worker = SimpleNamespace(target="cpu-small", node="10.0.12.33", state="measuring", measured=31, utilisation=0.93)
    with search_progress.search_progress(session, visible=True) as shown:
        shown.show_nodes(SimpleNamespace(workers=[worker], messages=()))  # type: ignore[arg-type]
    plain_text = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", out.getvalue())
    last = [line for line in plain_text.replace("\r", "\n").split("\n") if line.strip()][-2:]
    assert "33/200" in last[0]
    assert "front 12/12" in last[0]
    assert "31 done" in last[1]
    assert "…" not in "".join(last)
    assert all(len(line.rstrip()) <= width for line in last)


def test_a_search_that_is_piped_tells_its_counts_and_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    out, console = plain()
    waits = "target 'edge' has no node now: 3 evaluations wait for one that matches {'role': 'edge'} and is long enough"
    monkeypatch.setattr(search_progress, "error_console", lambda: console)
    session: Any = SimpleNamespace(
        plan=SimpleNamespace(settings=SimpleNamespace(evaluations=200), targets=[]), outcomes={}
    )
    with search_progress.search_progress(session, visible=True) as shown:
        shown.say("starting measurement actors")
        shown.show_nodes(PoolStatus(workers=(), messages=(waits,)))
    assert out.getvalue().splitlines() == [
        "starting Ray: 0 of 200 evaluated",
        "starting measurement actors: 0 of 200 evaluated",
        waits,
    ]


def test_the_fullest_text_that_fits_is_taken() -> None:
    assert first_fitting(["all of it", "some", "x"], 4) == "some"
    assert first_fitting(["all of it", "some"], 3) == ""
