"""Calibration finds the law by which a simulated runtime lets a simulated clock go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import READS
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.runtime.step_cost_fit import fit_step_costs
from lts_ray.runtime.step_costs import Group, PlaneCosts, StepCosts

CONFIG = MatFormerConfig(vocab_size=50, d_model=8, n_head=2, n_kv_head=1, widths=(800, 800), context_length=512)

LAW = StepCosts(
    grid=(1, 4, 16, 256),
    base=(2.0, 2.0, 3.0, 40.0),
    neuron=(0.004, 0.004, 0.006, 0.05),
    head=(3.0, 3.5, 5.0, 80.0),
    attended=0.0008,
    prompt_attended=0.0004,
)


def group_of(segment: Segment) -> Group:
    attended = sum(range(segment.start + 1, segment.stop + 1))
    planes = READS[CONFIG.precision_of(segment.submodel)]
    return Group(sum(segment.submodel.widths), len(segment.tokens), attended, int(segment.wants_logits), planes)


class SimulatedRuntime:
    """Takes what `law` says and `disturbance` adds, and looks at what every real runtime relies on."""

    def __init__(
        self,
        law: StepCosts = LAW,
        *,
        config: MatFormerConfig = CONFIG,
        n_blocks: int = 600,
        disturbance: Callable[[int], float] = lambda run: 1.0,
        precisions: tuple[str, ...] = ("float32",),
        device: str = "cpu",
    ) -> None:
        self.precisions, self.device = precisions, torch.device(device)
        self.config, self.n_blocks = config, n_blocks
        self.now, self.steps = 0.0, 0
        self.seen: Counter[tuple[Group, ...]] = Counter()
        self._law, self._disturbance = law, disturbance
        self._written: set[int] = set()
        self.slow_first_s = 0.0

    def run(self, segments: Sequence[Segment]) -> Tensor:
        held = [block for segment in segments for block in segment.blocks]
        assert len(held) == len(set(held))
        assert set(held) <= set(range(self.n_blocks))
        for segment in segments:
            assert 1 <= len(segment.tokens) <= segment.stop <= self.config.context_length
            assert len(segment.blocks) == -(-segment.stop // BLOCK_TOKENS)
            if segment.start >= BLOCK_TOKENS:
                assert self._written.issuperset(segment.blocks[: segment.start // BLOCK_TOKENS])
            self._written.update(segment.blocks[segment.start // BLOCK_TOKENS :])
        groups = tuple(group_of(each) for each in segments)
        self.now += self._law.step_ms(groups) / 1e3 * self._disturbance(self.steps)
        self.now += 0.0 if groups in self.seen else self.slow_first_s
        self.seen[groups] += 1
        self.steps += 1
        return torch.zeros(sum(each.wants_logits for each in segments), self.config.vocab_size)

    def clock(self) -> float:
        return self.now


SERVED = [
    [Group(1600, 1, 100, 1)],
    [Group(200, 3, 600, 3)],
    [Group(400, 8, 2000, 8)],
    [Group(1600, 2, 80, 2), Group(200, 6, 900, 6)],
    [Group(1600, 4, 400, 4), Group(400, 100, 5000, 0)],
    [Group(200, 7, 700, 7), Group(1600, 200, 20_000, 1)],
    [Group(800, 30, 3000, 30)],
]


def test_the_law_of_a_runtime_is_found_within_five_percent() -> None:
    runtime = SimulatedRuntime()
    found = measure_step_costs(runtime, seconds=3.0, clock=runtime.clock)
    for step in SERVED:
        assert found.step_ms(step) == pytest.approx(LAW.step_ms(step), rel=0.05), step
    assert found.relative_error < 0.01


def test_a_gpu_is_measured_in_larger_steps_once_all_of_them_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond whatever runs, then bytes and rows: what a step took at its first run is in no figure."""
    waited: list[float] = []
    law = StepCosts(
        grid=(1, 128, 1024),
        base=(0.2, 0.3, 1.5),
        neuron=(2e-4, 3e-4, 3e-3),
        head=(0.1, 0.2, 1.2),
        attended=2e-6,
        prompt_attended=1e-7,
    )
    config = replace(CONFIG, context_length=4096)
    runtime = SimulatedRuntime(law, config=config, n_blocks=2000, device="cuda")
    runtime.slow_first_s = 5.0
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(runtime.now))
    found = measure_step_costs(runtime, seconds=0.5, clock=runtime.clock)
    of_sizes = [[Group(1600, 256, 20_000, 1)], [Group(1600, 128, 9000, 128)]]
    beyond = [Group(400, 64, 9000, 64), Group(200, 900, 400_000, 1)]
    for step in [*SERVED[:3], *of_sizes, beyond]:  # of as many rows as they are padded to, or nearly
        assert found.step_ms(step) == pytest.approx(law.step_ms(step), rel=0.05), step
    assert len(waited) == runtime.steps


PLANES = replace(
    LAW,
    beside=(
        PlaneCosts(
            plane="upper", base=(0.4, 0.5, 2.5, 40.0), neuron=(0.001, 0.001, 0.005, 0.05), head=(1.0, 1.5, 4.0, 80.0)
        ),
        PlaneCosts(plane="lower", base=(0.4,) * 4, neuron=(0.001, 0.001, 0.001, 0.002), head=(1.0, 1.0, 1.0, 2.0)),
    ),
    once=0.5,
)
PRECISE = ("float32", "int8", "int4")


def test_the_law_of_each_precision_and_of_steps_that_mix_them_is_found() -> None:
    runtime = SimulatedRuntime(PLANES, precisions=PRECISE)
    found = measure_step_costs(runtime, seconds=3.0, clock=runtime.clock)
    assert found.planes == READS["float32"] | READS["int8"]
    for one, other in product(PRECISE, PRECISE):
        for step in SERVED:
            mixed = [replace(each, planes=READS[(one, other)[place % 2]]) for place, each in enumerate(step)]
            assert found.step_ms(mixed) == pytest.approx(PLANES.step_ms(mixed), rel=0.1), (one, other, step)
    assert found.relative_error < 0.02


@pytest.mark.parametrize(("served", "planes"), [("int8", ["upper"]), ("int4", ["upper"]), ("bfloat16", ["bfloat16"])])
def test_one_precision_is_one_plane_whichever_it_is(served: str, planes: list[str]) -> None:
    step = [Group(1600, rows, rows, rows, READS[served]) for rows in (1, 8)]
    found = fit_step_costs([([group], LAW.step_ms([group])) for group in step])
    assert [found.plane, *(each.plane for each in found.beside)] == planes
    assert found.once == 0
    assert found.step_ms(step[:1]) == pytest.approx(LAW.step_ms(step[:1]), rel=1e-6)


def test_a_quarter_of_the_runs_disturbed_changes_little() -> None:
    runtime = SimulatedRuntime(disturbance=lambda run: 5.0 if run % 4 == 0 else 1.0 + 0.03 * (-1) ** run)
    found = measure_step_costs(runtime, seconds=30.0, clock=runtime.clock)
    for step in SERVED:
        assert found.step_ms(step) == pytest.approx(LAW.step_ms(step), rel=0.12), step


def test_a_step_that_was_slow_in_all_its_runs_has_little_say() -> None:
    steps = [[group] for group in (Group(n, r, 9 * r, r) for n in (200, 800, 1600) for r in (1, 2, 4, 8, 16))]
    steps += [[group] for group in (Group(n, r, 9 * r, 0) for n in (200, 800, 1600) for r in (1, 2, 4, 8, 16))]
    samples = [(step, LAW.step_ms(step) * (3.0 if number == 7 else 1.0)) for number, step in enumerate(steps)]
    found = fit_step_costs(samples)
    assert LAW.step_ms(steps[7]) == pytest.approx(found.step_ms(steps[7]), rel=0.05)


def test_time_that_is_up_ends_it_after_one_run_of_each_step_that_decoding_needs_and_a_warm_up() -> None:
    runtime = SimulatedRuntime()
    found = measure_step_costs(runtime, seconds=0.0, clock=runtime.clock)
    times = {rows: {n for each, n in runtime.seen.items() if rows_of(each) == rows} for rows in (1, 4, 12, 64, 256)}
    assert times[1] == times[4] == times[12] == {2}
    assert times[64] == {1}  # the first is too long already
    assert times[256] == set()
    for step in (SERVED[0], SERVED[2], SERVED[3]):
        assert found.step_ms(step) == pytest.approx(LAW.step_ms(step), rel=0.05), step


def test_more_time_is_used_for_more_runs_of_short_steps_before_long_ones() -> None:
    runtime = SimulatedRuntime()
    measure_step_costs(runtime, seconds=30.0, clock=runtime.clock)
    assert runtime.now == pytest.approx(30.0, rel=0.2)
    cheap, dear = min(runtime.seen, key=LAW.step_ms), max(runtime.seen, key=LAW.step_ms)
    assert rows_of(dear) == 256
    assert runtime.seen[cheap] > runtime.seen[dear] > 3


def rows_of(groups: tuple[Group, ...]) -> int:
    return sum(each.rows for each in groups)


def test_a_law_that_the_model_does_not_have_shows_in_the_error_it_reports() -> None:
    """A third more for every step that mixes widths."""

    class Mixing(SimulatedRuntime):
        def run(self, segments: Sequence[Segment]) -> Tensor:
            begin = self.now
            logits = super().run(segments)
            if len({each.submodel for each in segments}) > 1:
                self.now += (self.now - begin) / 2
            return logits

    runtime = Mixing()
    assert measure_step_costs(runtime, clock=runtime.clock).relative_error == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("context_length", [2, 20, 64])
@pytest.mark.parametrize("n_blocks", [1, 5, 40])
def test_short_contexts_and_small_caches_are_measured_as_far_as_they_go(context_length: int, n_blocks: int) -> None:
    config = replace(CONFIG, context_length=context_length)
    runtime = SimulatedRuntime(config=config, n_blocks=n_blocks)
    found = measure_step_costs(runtime, seconds=1.0, clock=runtime.clock)
    step = [Group(1600, 2, 3, 0)]
    assert found.step_ms(step) == pytest.approx(LAW.step_ms(step), rel=0.05)


def test_a_cache_without_blocks_is_refused() -> None:
    runtime = SimulatedRuntime(n_blocks=0)
    with pytest.raises(LtsRayError, match="0 blocks is too small"):
        measure_step_costs(runtime, clock=runtime.clock)


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 50), min_size=12, max_size=12))
def test_whatever_was_measured_more_work_is_never_predicted_to_cost_less(times_ms: list[float]) -> None:
    steps = [
        [Group(neurons, rows, 10 * rows, rows * asked)]
        for neurons in (200, 1600)
        for rows in (1, 8, 64)
        for asked in (0, 1)
    ]
    found = fit_step_costs(list(zip(steps, times_ms, strict=True)))
    for column in (found.base, found.neuron, found.head):
        assert column[0] >= 0
        assert all(left <= right for left, right in pairwise(column))
    assert found.attended >= 0


def test_logits_for_more_rows_than_were_measured_cost_as_much_more_as_before() -> None:
    shapes = product((200, 1600), (1, 2, 4, 64, 128), (0, 4))
    steps = [[Group(neurons, rows, rows, min(rows, asked))] for neurons, rows, asked in shapes]
    found = fit_step_costs([(step, LAW.step_ms(step)) for step in steps])
    slope = (found.head[2] - found.head[1]) / 2
    assert slope > 0
    assert found.head[-1] == pytest.approx(found.head[2] + slope * (128 - 4), rel=1e-6)
