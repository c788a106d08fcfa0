from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.common.machine import Machine
from benchmarks.load.local_model import LoadCapacity
from benchmarks.load.policies_folder import Cell, CellResult, PolicySettings, PolicySetup
from benchmarks.load.policies_page import describe, policies_figure, policy_sections
from benchmarks.load.policy_rows import PolicyRow, mean_of, rows_of
from lts_ray.runtime.step_costs import StepCosts
from serve.simulate.attainment_score import AttainmentScore

PLAIN = AttainmentScore(
    requests=100,
    rejected=10,
    failed=0,
    attainment=0.5,
    by_kind={"ttft": 0.5, "tpot": 0.5, "e2e": None},
    by_class={"tight": 0.5},
    loss=3.2,
    universal_share=0.5,
    goodput_requests_s=5.0,
    goodput_tokens_s=100.0,
    tokens_s=200.0,
    p50={"ttft": 10.0, "tpot": 5.0, "e2e": 100.0},
    p99={"ttft": 20.0, "tpot": 6.0, "e2e": 200.0},
)


def cell(policy: str, *, load: float = 1.5, seed: int = 0, trace: str = "poisson", **score: object) -> CellResult:
    found = replace(PLAIN, **score)  # type: ignore[arg-type]
    return CellResult(cell=Cell("simulated", trace, load, seed, policy), score=found)


def test_a_row_is_the_mean_over_traces_then_seeds() -> None:
    """Seed 0: (0.2 + 0.4) / 2, seed 1: (0.6 + 1.0) / 2; their mean is 0.55, and t with one degree 12.706."""
    values = {(0, "poisson"): 0.2, (0, "ramp"): 0.4, (1, "poisson"): 0.6, (1, "ramp"): 1.0}
    cells = [cell("deadline", seed=seed, trace=trace, attainment=each) for (seed, trace), each in values.items()]
    (row,) = rows_of(cells)
    assert row.attainment is not None
    assert row.attainment.mean == pytest.approx(0.55)
    assert row.attainment.high == pytest.approx(0.55 + 12.706 * 0.25, rel=1e-4)
    assert row.by_kind["e2e"] is None
    assert row.requests == 400
    assert row.rejected.mean == pytest.approx(0.1)
    by_trace = rows_of(cells, by_trace=True)
    assert [(each.trace, each.attainment and each.attainment.mean) for each in by_trace] == [
        ("poisson", pytest.approx(0.4)), ("ramp", pytest.approx(0.7)),
    ]  # fmt: skip


def rows() -> list[PolicyRow]:
    return rows_of(
        [
            cell(policy, load=load, seed=seed, attainment=min(1.0, 0.3 * load + 0.1 * seed))
            for policy in ("deadline", "slackfit", "fixed-universal")
            for load in (0.5, 1.0, 1.5, 2.0)
            for seed in range(2)
        ]
    )


def test_the_figure_has_a_panel_for_each_load_and_a_point_for_each_policy() -> None:
    figure = policies_figure(rows())
    assert len(figure.data) == 12
    assert [trace.name for trace in figure.data if trace.showlegend] == ["deadline", "slackfit", "fixed-universal"]
    assert len({trace.xaxis for trace in figure.data}) == 4
    assert [note.text.split("</b>")[0] for note in figure.layout.annotations] == [
        "<b>0.5×", "<b>1×", "<b>1.5×", "<b>2×",
    ]  # fmt: skip
    first = figure.data[0]
    assert (first.x[0], first.y[0]) == (pytest.approx(20.0), pytest.approx(3.2))


@pytest.mark.parametrize("columns", ["text_columns", "more_text_columns"])
def test_tables_have_the_same_columns_for_all_and_fit_a_terminal(columns: str) -> None:
    shown = [getattr(row, columns)() for row in rows()]
    assert len({tuple(row) for row in shown}) == 1
    widths = [max(len(name), *(len(row[name]) for row in shown)) for name in shown[0]]
    assert sum(widths) + 3 * len(widths) + 1 <= 120
    assert shown[0]["policy"] == "deadline"


def test_what_no_request_counts_for_is_a_dash() -> None:
    assert rows()[0].text_columns()["e2e"] == "–"


def test_a_section_has_a_figure_and_tables_for_each_load() -> None:
    (section,) = policy_sections(rows())
    assert section.name == "policies-simulated"
    assert list(section.tables)[:2] == [
        "simulated, 0.5× the universal model's saturation", "simulated, 0.5× the universal model's saturation: more",
    ]  # fmt: skip
    assert len(section.tables) == 8
    assert {len(rows) for rows in section.tables.values()} == {3}


def test_what_was_run_is_told_in_a_sentence() -> None:
    setup = PolicySetup(
        settings=PolicySettings(traces=("poisson",), seeds=2),
        model="0123456789abcdef",
        capacity=LoadCapacity(context_length=64),
        threads=1,
        costs=StepCosts(grid=(1,), base=(1.0,), neuron=(0.0,), head=(0.0,), attended=0.0),
        rate=4.0,
        losses={"S": 4.0, "XL": 3.0},
        machine=Machine(cpu="some cpu", cores=2, gpu=None, torch="2", commit=None),
        slowdown=1.25,
    )
    assert "Load 1 is 4.00 requests/s (3.20 on the engine)" in describe(setup)


def test_intervals_are_students_t() -> None:
    """Of 1, 2, 3: 2 ± 4.303 · 1 / √3, by a table of the distribution with two degrees of freedom."""
    found = mean_of([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx(
        (2.0, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4
    )
    assert mean_of([]) is None
    alone = mean_of([0.5])
    assert alone is not None
    assert alone.high is None
    assert alone.text(scale=100) == "50.0"


def test_the_interval_holds_the_true_mean_nineteen_times_out_of_twenty() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = mean_of(rng.normal(3.0, 2.0, size=5).tolist())
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 3.0 <= found.high
    assert held == pytest.approx(950, abs=35)  # five deviations of a share of 1000
