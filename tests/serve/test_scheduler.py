from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.scheduler import Move, Scheduler, Step


def test_requests_are_prefilled_in_the_order_of_arrival_and_decode_steps_come_between() -> None:
    scheduler = Scheduler(slots=2, max_queue=8)
    assert [scheduler.add(number) for number in (7, 8, 9)] == [True] * 3
    assert [scheduler.step() for _ in range(4)] == [
        Step("prefill", (7,), 0),
        Step("decode", (7,), 0),
        Step("prefill", (8,), 1),
        Step("decode", (7, 8), 0),
    ]
    assert scheduler.waiting == (9,)  # no slot is free


def test_a_leaving_row_is_filled_by_the_last_one() -> None:
    scheduler = Scheduler(slots=3, max_queue=8)
    for number in (1, 2, 3):
        scheduler.add(number)
    while scheduler.waiting:
        scheduler.step()
    assert scheduler.remove(1) == Move(source=2, destination=0)
    assert scheduler.running == (3, 2)
    assert scheduler.remove(2) is None  # the last row leaves no gap
    assert scheduler.remove(2) is None  # and again: no error


def test_nothing_to_do_is_no_step() -> None:
    assert Scheduler(slots=1, max_queue=1).step() is None


def test_a_full_queue_keeps_nothing() -> None:
    scheduler = Scheduler(slots=1, max_queue=1)
    assert scheduler.add(1)
    assert not scheduler.add(2)
    assert scheduler.waiting == (1,)


@given(slots=st.integers(1, 4), actions=st.lists(st.one_of(st.just("add"), st.just("step"), st.integers(0, 30))))
def test_the_moves_keep_every_row_with_its_request(slots: int, actions: list[str | int]) -> None:
    """A twin of the cache follows prefills and moves; every decode step must find each request in its row."""
    scheduler, rows, added = Scheduler(slots=slots, max_queue=5), [-1] * slots, 0
    for action in actions:
        if action == "add":
            scheduler.add(added)
            added += 1
        elif action == "step":
            step = scheduler.step()
            if step is not None and step.phase == "prefill":
                rows[step.first_row] = step.ids[0]
            elif step is not None:
                assert tuple(rows[: len(step.ids)]) == step.ids == scheduler.running
        elif isinstance(action, int):
            move = scheduler.remove(action)
            if move is not None:
                rows[move.destination] = rows[move.source]
        assert len(scheduler.running) <= slots
