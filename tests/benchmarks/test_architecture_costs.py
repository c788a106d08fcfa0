from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import architecture_costs as bench
from benchmarks.architecture_costs import ATTEMPTS, CostComparison, architecture_costs, compare, quietest
from benchmarks.common.machine import Machine
from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Measurement
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces.named_spaces import backbone_space


def cost_of(architecture: Architecture) -> Cost:
    """Exactly what the model can express."""
    parameters = gpt2.SPACE.decoder_params(architecture)
    return Cost(prefill_ms=parameters / 1e5, decode_ms=1 + parameters / 1e7, peak_memory_mb=4e-6 * parameters + 20)


def test_a_comparison_measures_the_design_then_unseen_candidates_and_reports_the_errors() -> None:
    told: list[tuple[str, int, int]] = []
    ticks = iter(range(100))
    comparison = compare(
        gpt2.SPACE,
        cost_of=cost_of,
        layers=20,
        candidates=6,
        rng=np.random.default_rng(0),
        progress=lambda stage, done, total: told.append((stage, done, total)),
        clock=lambda: float(next(ticks)),
    )
    assert told == [("layers", done, 20) for done in range(1, 21)] + [("candidates", done, 6) for done in range(1, 7)]
    stacks = {each for each, _ in comparison.model.samples}
    assert len(stacks) == 20
    assert not stacks & {row.architecture for row in comparison.rows}
    assert [row.measured for row in comparison.rows] == [cost_of(row.architecture) for row in comparison.rows]
    assert comparison.seconds == {"layers": 1.0, "fit": 1.0, "candidates": 1.0}
    assert comparison.error("prefill_ms").mean < 0.01
    expected = [abs(row.predicted.decode_ms / row.measured.decode_ms - 1) for row in comparison.rows]
    assert comparison.error("decode_ms").largest == pytest.approx(max(expected))


def measurement(prefill_ms: tuple[float, ...], decode_ms: tuple[float, ...]) -> Measurement:
    """One block; with five times or fewer, the interval is their range."""
    return Measurement(
        prefill=Latency(regime="prefill", threads=1, blocks=(TimedBlock(times_ms=prefill_ms),)),
        decode=Latency(regime="decode", threads=1, blocks=(TimedBlock(times_ms=decode_ms),)),
        peak_memory_bytes=5,
    )


STEADY, WILD = (10.0, 10.1, 10.2), (9.0, 11.0, 20.0)


def test_an_unquiet_measurement_is_taken_again_and_each_regime_keeps_its_steadiest() -> None:
    attempts = iter([measurement(STEADY, WILD), measurement(WILD, (3.0, 4.0, 5.0)), measurement(WILD, STEADY)])
    best = quietest(lambda: next(attempts))
    assert (best.prefill.times_ms, best.decode.times_ms) == (STEADY, STEADY)
    assert not list(attempts)


def test_a_steady_measurement_is_taken_once_and_a_node_that_stays_unquiet_is_given_up_on() -> None:
    attempts = iter([measurement(STEADY, STEADY)] + [measurement(WILD, WILD)] * 9)
    assert quietest(lambda: next(attempts)).decode.times_ms == STEADY
    assert quietest(lambda: next(attempts)).decode.times_ms == WILD
    assert len(list(attempts)) == 9 - ATTEMPTS


def test_the_command_writes_every_row_and_says_what_it_holds_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With costs that are computed in place of measurements."""

    def computed(space_name: str, *, layers: int, candidates: int, seed: int, **_: object) -> CostComparison:
        rng = np.random.default_rng(seed)
        return compare(backbone_space(space_name), cost_of=cost_of, layers=layers, candidates=candidates, rng=rng)

    monkeypatch.setattr(bench, "compare_costs", computed)
    architecture_costs(layers=14, candidates=2, output=tmp_path / "rows.json")
    record = read_json(tmp_path / "rows.json", what="result")
    assert (record["space"], record["layers"], record["candidates"]) == ("gpt2", 14, 2)
    assert record["machine"]["cores"] >= 1
    assert record["target"]["threads"] == 1
    assert set(record["relative_error"]["decode_ms"]) == {"mean", "median", "largest"}
    assert record["rows"][0]["measured"]["prefill_ms"] > 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == {key: value for key, value in record.items() if key not in ("rows", "samples")}


def test_the_machine_is_described() -> None:
    here = Machine.here()
    assert here.cpu
    assert here.cores >= 1


def test_a_comparison_without_candidates_is_refused() -> None:
    with pytest.raises(LtsRayError, match="at least one candidate"):
        compare(gpt2.SPACE, cost_of=cost_of, layers=14, candidates=0, rng=np.random.default_rng(0))
