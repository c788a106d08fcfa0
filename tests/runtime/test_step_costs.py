from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.precision import PLANES, PRECISIONS, READS
from lts_ray.record import read_record, record_json
from lts_ray.runtime.step_costs import Group, PlaneCosts, StepCosts

COSTS = StepCosts(
    grid=(1, 4, 8),
    base=(1.0, 1.0, 3.0),
    neuron=(0.1, 0.2, 0.6),
    head=(2.0, 5.0, 9.0),
    attended=0.01,
    relative_error=0.1,
)

groups = st.lists(
    st.builds(
        lambda neurons, rows, before, logits, precision: Group(
            neurons, rows, rows * (before + 1), min(logits, rows), READS[precision]
        ),
        st.integers(1, 100),
        st.integers(1, 40),
        st.integers(0, 500),
        st.integers(0, 40),
        st.sampled_from(PRECISIONS),
    ),
    min_size=1,
    max_size=5,
)
slopes = st.lists(st.floats(0, 3), min_size=3, max_size=3)


@st.composite
def costs(draw: st.DrawFn) -> StepCosts:
    """Any whose columns do not fall."""

    def column() -> tuple[float, ...]:
        first, second, third = draw(slopes)
        return first, first + second, first + second + third

    return StepCosts(
        grid=(1, 4, 8),
        base=column(),
        neuron=column(),
        head=column(),
        attended=draw(st.floats(0, 1)),
        slowdown=draw(st.floats(0.5, 2)),
        overhead_ms=draw(st.floats(0, 2)),
        beside=tuple(
            PlaneCosts(plane=plane, base=column(), neuron=column(), head=column())
            for plane in draw(st.sampled_from([(), PLANES[1:]]))
        ),
        once=draw(st.floats(0, 2)),
    )


def test_one_width_costs_its_rows_its_neurons_its_head_and_what_it_looks_at() -> None:
    """Two rows lie a third of the way from one to four."""
    expected = 1.0 + 30 * (0.1 + 0.1 / 3) + 3.0 + 0.01 * 50
    assert COSTS.step_ms([Group(30, 2, 50, 2)]) == pytest.approx(expected)


def test_neurons_between_two_widths_are_run_for_the_wider_rows_only() -> None:
    mixed = [Group(30, 1, 10, 1), Group(10, 7, 10, 0)]
    expected = 3.0 + 10 * 0.6 + 20 * 0.1 + 2.0 + 0.01 * 20
    assert COSTS.step_ms(mixed) == pytest.approx(expected)
    assert COSTS.step_ms(mixed[::-1]) == pytest.approx(expected)


def test_past_the_grid_costs_go_on_rising_as_between_its_last_two_points() -> None:
    assert COSTS.step_ms([Group(0, 16, 0, 0)]) == pytest.approx(3.0 + 2 * 2.0)


def test_an_empty_step_costs_nothing_however_slow_the_node() -> None:
    assert replace(COSTS, overhead_ms=5.0).step_ms([]) == 0


def test_serving_may_be_slower_by_a_factor_by_another_for_prompts_and_by_a_constant() -> None:
    slower = replace(COSTS, slowdown=2.0, prompt_slowdown=1.5, overhead_ms=0.25)
    decoding, prompt = [Group(30, 4, 40, 4)], [Group(30, 4, 40, 4), Group(20, 3, 6, 1)]
    assert slower.step_ms(decoding) == pytest.approx(2 * COSTS.step_ms(decoding) + 0.25)
    assert slower.step_ms(prompt) == pytest.approx(3 * COSTS.step_ms(prompt) + 0.25)
    assert slower.scaled(3).step_ms(prompt) == pytest.approx(3 * slower.step_ms(prompt))


@given(costs(), groups, st.integers(0, 4))
def test_a_row_more_or_a_wider_one_never_costs_less(found: StepCosts, step: list[Group], place: int) -> None:
    place %= len(step)
    before, each = found.step_ms(step), step[place]
    more = replace(each, rows=each.rows + 1, attended=each.attended + 1, logits=each.logits + 1)
    wider = replace(each, neurons=each.neurons + 7)
    finer = replace(each, planes=each.planes | READS["int8"])
    for changed in (more, wider, finer):
        after = found.step_ms([*step[:place], changed, *step[place + 1 :]])
        assert after >= before * (1 - 1e-9) - 1e-9


@given(costs(), groups)
def test_rows_of_one_width_cost_the_same_in_one_group_or_several(found: StepCosts, step: list[Group]) -> None:
    split = [part for each in step for part in halves(each)]
    assert found.step_ms(split) == pytest.approx(found.step_ms(step), abs=1e-9)


def halves(group: Group) -> list[Group]:
    rows, attended, logits = group.rows // 2, group.attended // 2, group.logits // 2
    if not rows:
        return [group]
    return [
        replace(group, rows=rows, attended=attended, logits=logits),
        replace(group, rows=group.rows - rows, attended=group.attended - attended, logits=group.logits - logits),
    ]


@given(costs(), groups)
def test_a_step_costs_what_its_planes_cost_each_with_the_rows_that_read_it(found: StepCosts, step: list[Group]) -> None:
    planes = [(found.plane, found.base, found.neuron, found.head)]
    planes += [(each.plane, each.base, each.neuron, each.head) for each in found.beside]
    expected = found.once + found.attended * sum(group.attended for group in step)
    for plane, base, neuron, head in planes:
        alone = StepCosts(grid=found.grid, base=base, neuron=neuron, head=head, attended=0.0)
        bit = 1 << PLANES.index(plane)
        expected += alone.quiet_ms([group for group in step if group.planes & bit or not found.beside])
    assert found.quiet_ms(step) == pytest.approx(expected, abs=1e-9)


def test_rows_of_both_integer_precisions_share_the_upper_plane() -> None:
    """Their own costs are here 1 each, and those of the lower plane 10; nothing else costs anything."""
    flat = StepCosts(
        grid=(1, 100), base=(1.0, 1.0), neuron=(0.0, 0.0), head=(0.0, 0.0), attended=0.0, plane="upper",
        beside=(PlaneCosts(plane="lower", base=(10.0, 10.0), neuron=(0.0, 0.0), head=(0.0, 0.0)),),
    )  # fmt: skip
    fine, coarse = Group(5, 1, 1, 1, READS["int8"]), Group(9, 3, 3, 3, READS["int4"])
    assert [flat.step_ms(step) for step in ([coarse], [fine], [fine, coarse])] == [1, 11, 11]


def test_costs_survive_a_file() -> None:
    lower = PlaneCosts(plane="lower", base=(1.0,) * 3, neuron=(0.1,) * 3, head=(0.0,) * 3)
    kept = replace(COSTS, slowdown=1.25, overhead_ms=0.5, plane="upper", beside=(lower,), once=0.25)
    assert read_record(StepCosts, json.loads(json.dumps(record_json(kept)))) == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (2, 4, 8)}, "must grow from 1"),
        ({"grid": (1, 4, 4)}, "must grow from 1"),
        ({"head": (1.0,)}, "one value for each of the 3"),
        ({"plane": "middle"}, "of planes among"),
        ({"beside": (PlaneCosts(plane="float32", base=(1.0,) * 3, neuron=(1.0,) * 3, head=(1.0,) * 3),)}, "each once"),
    ],
    ids=["begins late", "stands still", "short column", "no plane", "a plane twice"],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        replace(COSTS, **changes)
