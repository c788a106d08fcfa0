"""The scheduler driven by made-up tokens and a clock that counts steps: no model, no policy of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.runtime.runtime import BLOCK_TOKENS, pending
from lts_ray.runtime.step_costs import Group, StepCosts
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation
from serve.policies.request import Request, Resumed
from tests.serve.models import tiny_menu

MENU = tiny_menu()
COSTS = StepCosts(grid=(1,), base=(1.0,), neuron=(0.0,), head=(0.0,), attended=0.0)
N = BLOCK_TOKENS


@dataclass
class Scripted:
    """Does as it is told: the waiting in the order of arrival, reversed or not; every width by turns."""

    name: str = "scripted"
    options: Sequence[Option] = (MENU.universal,)
    held: frozenset[int] = frozenset()
    reversed: bool = False
    steps: count[int] = field(default_factory=count)

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        turn = next(self.steps)
        jobs = [*situation.running, *situation.waiting]
        order = [job.id for job in situation.waiting]
        return Plan(
            options={job.id: self.options[(job.id + turn) % len(self.options)] for job in jobs},
            order=tuple(reversed(order) if self.reversed else order),
            held=self.held,
        )


def scheduler_of(
    policy: Scripted | None = None, *, slots: int = 2, max_queue: int = 8, chunk_tokens: int = 64, n_blocks: int = 64
) -> Scheduler:
    return Scheduler(
        menu=MENU,
        policy=policy or Scripted(),
        capacity=Capacity(slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens),
        n_blocks=n_blocks,
    )


def add(
    scheduler: Scheduler, id: int, prompt: Sequence[int], max_tokens: int = 4, arrived_ms: float | None = None
) -> bool:
    request = Request(prompt=tuple(prompt), max_tokens=max_tokens)
    return scheduler.add(Job(id=id, request=request, arrived_ms=float(id) if arrived_ms is None else arrived_ms))


class Twin:
    """Runs what the scheduler says on a memory of its own, and checks that every row reads what it should.

    A token is a hash of all tokens before it, so that one which is lost, repeated or read from the wrong block shows.
    ahead: each step is planned before the scheduler knows the tokens of the one before.
    """

    def __init__(self, scheduler: Scheduler, *, ahead: bool = False) -> None:
        self.scheduler, self.ahead = scheduler, ahead
        self.before: tuple[Step, dict[int, int]] | None = None
        self.memory: dict[tuple[int, int], tuple[int, ...]] = {}
        self.sequences: dict[int, list[int]] = {}
        self.ends: dict[int, int] = {}
        self.now_ms = 0.0

    def add(self, id: int, prompt: Sequence[int], max_tokens: int) -> bool:
        if not add(self.scheduler, id, prompt, max_tokens):
            return False
        self.sequences[id] = list(prompt)
        self.ends[id] = len(prompt) + max_tokens
        return True

    def step(self) -> Step | None:
        if self.ahead:
            self.scheduler.let_go()
        step = self.scheduler.step(self.now_ms, COSTS)
        if step is None:
            return None
        chosen = () if self.before is None else [self.before[1][part.id] for part in self.before[0].wanting]
        self.now_ms += step.predicted_ms
        assert len({part.id for part in step.parts}) == len(step.parts) <= self.scheduler.capacity.slots
        assert sum(len(part.segment.tokens) for part in step.parts) <= self.scheduler.capacity.chunk_tokens
        assert not {part.id for part in step.parts} & set(step.preempted)
        made = {}
        for part in step.parts:
            segment, sequence = part.segment, self.sequences[part.id]
            tokens = [token if token >= 0 else chosen[-1 - token] for token in segment.tokens]
            assert tokens == sequence[segment.start : segment.stop]
            assert len(segment.blocks) == -(-segment.stop // N)
            assert segment.wants_logits == (segment.stop == len(sequence))
            for place in range(segment.start, segment.stop):
                self.memory[segment.blocks[place // N], place % N] = tuple(sequence[: place + 1])
        for part in step.parts:  # after all writes: nobody wrote over another's
            segment, sequence = part.segment, self.sequences[part.id]
            for place in range(segment.stop):
                assert self.memory[segment.blocks[place // N], place % N] == tuple(sequence[: place + 1])
            if segment.wants_logits:
                made[part.id] = hash(tuple(sequence)) % 2  # few tokens, so that responses share prefixes
        for id, token in made.items():
            self.sequences[id].append(token)
        if self.ahead:
            self.scheduler.took(step, {id: pending(place) for place, id in enumerate(made)}, self.now_ms)
            if self.before is not None:
                self.scheduler.made(*self.before, self.now_ms)
            self.before = step, made
            return step
        self.scheduler.took(step, made, self.now_ms)
        for id in made:
            if len(self.sequences[id]) == self.ends[id]:
                self.scheduler.remove(id)
        return step


def expected(prompt: Sequence[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(hash(tuple(tokens)) % 2)
    return tokens


REQUESTS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(0, 3)), min_size=1, max_size=10)


@given(
    slots=st.integers(1, 4),
    extra=st.integers(0, 40),
    n_blocks=st.integers(7, 10),
    reverse=st.booleans(),
    widths=st.integers(1, 4),
    held=st.frozensets(st.integers(0, 9)),
    cancelled=st.frozensets(st.integers(0, 9)),
    ahead=st.booleans(),
    requests=REQUESTS,
)
def test_every_request_gets_each_of_its_tokens_once_however_few_the_blocks(
    slots: int,
    extra: int,
    n_blocks: int,
    reverse: bool,
    widths: int,
    held: frozenset[int],
    cancelled: frozenset[int],
    ahead: bool,
    requests: list[tuple[int, int, int]],
) -> None:
    """Requests (prompt tokens, max_tokens, steps before the next arrives) through pools that force preemption."""
    policy = Scripted(options=MENU.elastic[:widths], held=held, reversed=reverse)
    scheduler = scheduler_of(policy, slots=slots, max_queue=10, chunk_tokens=slots + extra, n_blocks=n_blocks)
    twin = Twin(scheduler, ahead=ahead)
    for id, (prompt, max_tokens, pause) in enumerate(requests):
        assert twin.add(id, [7] * prompt, max_tokens)
        for _ in range(pause):
            twin.step()
        if id in cancelled:
            scheduler.remove(id)
    steps = 0
    while twin.step() is not None:
        steps += 1
        assert steps < 2000
    assert scheduler.kv_usage == 0
    assert not scheduler.has_work
    for id, (prompt, max_tokens, _) in enumerate(requests):
        whole = expected([7] * prompt, max_tokens)
        assert twin.sequences[id] == (whole if id not in cancelled else whole[: len(twin.sequences[id])])


def test_responses_go_on_while_a_prompt_is_read_piece_by_piece() -> None:
    scheduler = scheduler_of(chunk_tokens=10)
    twin = Twin(scheduler)
    twin.add(1, [1] * 3, 9)
    twin.add(2, range(20), 9)
    sizes = [[len(part.segment.tokens) for part in step.parts] for step in (twin.step() for _ in range(4)) if step]
    assert sizes == [[3, 7], [1, 9], [1, 4], [1, 1]]
    assert scheduler.running == (1, 2)


def test_a_prompt_in_progress_comes_before_the_waiting_and_these_in_the_plans_order() -> None:
    scheduler = scheduler_of(Scripted(reversed=True), slots=3, chunk_tokens=4)
    twin = Twin(scheduler)
    for id in (1, 2):
        twin.add(id, range(6), 1)
    order = []
    while (step := twin.step()) is not None:
        order.append([(part.id, len(part.segment.tokens)) for part in step.parts])
    assert order == [[(2, 4)], [(2, 2), (1, 2)], [(1, 4)]]


def test_a_step_says_what_is_in_it() -> None:
    """By hand: request 1 decodes at place 3, so it looks at 4 tokens; request 2's prompt of 5 looks at 1 to 5."""
    option = MENU.universal
    scheduler = scheduler_of(slots=2)
    twin = Twin(scheduler)
    twin.add(1, [1, 2, 3], 9)
    twin.step()
    twin.add(2, [4] * 5, 9)
    step = scheduler.step(5.0, COSTS)
    assert step is not None
    assert step.groups == (
        Group(neurons=option.neurons, rows=1, attended=4, logits=1),
        Group(neurons=option.neurons, rows=5, attended=15, logits=1),
    )
    assert (step.decoded, step.prompt_tokens, step.reused_tokens, step.switches, step.preempted) == (1, 5, 0, 0, ())
    assert step.predicted_ms == COSTS.step_ms(step.groups)


def test_a_step_that_was_not_taken_is_the_next_one_again() -> None:
    scheduler = scheduler_of(n_blocks=4)
    twin = Twin(scheduler)
    twin.add(1, [1] * N, 9)
    twin.step()
    assert scheduler.step(1.0, COSTS) == scheduler.step(1.0, COSTS)


def test_the_request_that_arrived_last_makes_room_and_goes_on_where_it_was() -> None:
    scheduler = scheduler_of(n_blocks=4)
    twin = Twin(scheduler)
    twin.add(1, [1] * (N - 1), 2 * N)
    twin.add(2, [2] * (N - 1), 2 * N)
    preempted = []
    while (step := twin.step()) is not None:
        preempted += step.preempted
        if step.preempted:
            assert scheduler.waiting == (2,)
            assert scheduler.situation(0.0).waiting[0].cached == 0
            assert scheduler.situation(0.0).waiting[0].produced == N + 2  # two blocks of places, and the next token
    assert preempted == [2]
    assert twin.sequences == {id: expected([id] * (N - 1), 2 * N) for id in (1, 2)}


def test_whoever_waits_longer_is_not_overtaken_by_one_that_would_fit() -> None:
    """Four of six blocks are taken, and one is left over for whom they belong to: request 3 would fit, 2 does not."""
    scheduler = scheduler_of(slots=3, n_blocks=6)
    twin = Twin(scheduler)
    twin.add(1, [1] * (3 * N), 3)
    twin.step()
    twin.add(2, [2] * (2 * N), 2)
    twin.add(3, [3], 2)
    twin.step()
    assert (scheduler.running, scheduler.waiting) == ((1,), (2, 3))
    twin.step()  # ends request 1
    twin.step()
    assert scheduler.running == (2, 3)


def test_the_same_beginning_is_run_once() -> None:
    scheduler = scheduler_of(slots=1)
    twin = Twin(scheduler)
    reused = []
    for id in range(3):
        twin.add(id, [*range(40), 100 + id], 1)
        step = twin.step()
        assert step is not None
        reused.append((step.reused_tokens, step.prompt_tokens))
    assert reused == [(0, 41), (32, 9), (32, 9)]


def test_held_rows_sit_out_unless_nobody_else_is_left() -> None:
    policy = Scripted()
    scheduler = scheduler_of(policy)
    twin = Twin(scheduler)
    twin.add(1, [1], 3)
    twin.add(2, [2], 9)
    twin.step()
    policy.held = frozenset({2})
    seen = [tuple(part.id for part in step.parts) for step in (twin.step() for _ in range(3)) if step]
    assert seen == [(1,), (1,), (2,)]


def test_who_made_room_before_the_held_rows_had_to_run_after_all_is_told() -> None:
    """Two rows want a block that is not there: the one that is not held gives up its own, and nobody else may run."""
    policy = Scripted()
    scheduler = scheduler_of(policy, n_blocks=4)
    twin = Twin(scheduler)
    for id in (1, 2):
        twin.add(id, [id] * (N - 1), 2 * N)
    for _ in range(N + 2):
        twin.step()
    policy.held = frozenset({1})
    step = twin.step()
    assert step is not None
    assert [part.id for part in step.parts] == [1]
    assert step.preempted == (2,) == scheduler.waiting


def test_a_change_of_width_in_the_middle_is_a_switch() -> None:
    policy = Scripted(options=(MENU.named["S"],))
    scheduler = scheduler_of(policy)
    twin = Twin(scheduler)
    twin.add(1, [1], 9)
    switches = []
    for name in ("S", "S", "M", "M", "XL"):
        policy.options = (MENU.named[name],)
        step = twin.step()
        assert step is not None
        switches.append(step.switches)
    assert switches == [0, 0, 1, 0, 1]
    assert scheduler.situation(0.0).running[0].option == MENU.named["XL"]


def test_a_job_tells_when_its_first_token_came() -> None:
    scheduler = scheduler_of(chunk_tokens=8)
    twin = Twin(scheduler)
    twin.add(1, range(10), 5)
    seen = []
    for _ in range(3):
        twin.step()
        job = scheduler.situation(0.0).running[0]
        seen.append((job.cached, job.produced, job.first_ms))
    assert seen == [(8, 0, None), (10, 1, 10.0), (11, 2, 10.0)]  # 8 and 2 tokens, 1 ms each


def test_what_began_elsewhere_goes_on_before_those_that_have_got_nothing_the_oldest_first() -> None:
    scheduler = scheduler_of(max_queue=1)
    add(scheduler, 1, [1] * 3)
    for id, arrived_ms in ((2, 0.7), (3, 0.5), (4, 0.6)):
        request, resumed = Request(prompt=(1, 2), max_tokens=9), Resumed(tokens=(id,) * id, first_s=0.001)
        assert scheduler.add(Job(id=id, request=request, arrived_ms=arrived_ms), resumed)
    assert scheduler.waiting == (3, 4, 2, 1)
    job = scheduler.situation(5.0).waiting[0]
    assert (job.produced, job.cached, job.first_ms, job.pending, job.remaining) == (3, 0, 1.0, 5, 6)
    step = scheduler.step(5.0, COSTS)
    assert step is not None
    assert [part.segment.tokens for part in step.parts] == [(1, 2, 3, 3, 3), (1, 2, 4, 4, 4, 4)]


def test_what_goes_on_with_all_but_its_last_token_in_the_cache_is_no_response_yet_that_continues() -> None:
    """Else the step's other newcomer, of which it is told that it begins, would be passed over."""
    scheduler = scheduler_of(slots=3)
    twin = Twin(scheduler)
    twin.add(1, [1] * N + [2], 2)
    twin.step()
    twin.add(2, [3] * 4, 2)
    resumed = Resumed(tokens=(1, 2), first_s=0.0)
    scheduler.add(Job(id=3, request=Request(prompt=(1,) * (N - 1), max_tokens=4), arrived_ms=9.0), resumed)
    step = scheduler.step(5.0, COSTS)
    assert step is not None
    assert [part.id for part in step.parts] == [1, 3, 2]
    assert (step.decoded, step.reused_tokens, step.prompt_tokens) == (1, N, 1 + 4)


def test_a_full_queue_keeps_nothing() -> None:
    scheduler = scheduler_of(max_queue=1)
    assert add(scheduler, 1, [1])
    assert not add(scheduler, 2, [1])
    assert scheduler.waiting == (1,)
    scheduler.remove(2)
    scheduler.remove(1)
    assert scheduler.step(0.0, COSTS) is None


def test_what_can_never_fit_is_refused() -> None:
    scheduler = scheduler_of(n_blocks=2)
    assert add(scheduler, 1, [1] * N, max_tokens=N + 1)  # the last token is never run
    with pytest.raises(LtsRayError, match=r"need 3 blocks .* has 2: ask for fewer tokens"):
        add(scheduler, 2, [1] * N, max_tokens=N + 2)


def test_a_step_must_have_a_token_for_every_place() -> None:
    with pytest.raises(LtsRayError, match="chunk_tokens"):
        scheduler_of(slots=4, chunk_tokens=3)
