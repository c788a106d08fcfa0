"""What goes over the wire comes out as it went in."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lts_ray.decoding.sampling import Sampling
from serve.engine.response import Admitted, Ended, Event, ResponseFailed, Token
from serve.fleet.frames import CARDS, REPORTS, REQUESTS, adapted, event_json, frame, read_card, read_event, read_request
from serve.fleet.replica_card import OtherJob, ReplicaCard, ReplicaReport
from serve.policies.budget import Budget, Timing
from serve.policies.capacity import Capacity
from serve.policies.delivery import Delivery
from serve.policies.deviation import Deviation
from serve.policies.expectation import Expectation
from serve.policies.request import Request
from tests.serve.models import COSTS, tiny_menu

MENU = tiny_menu()
numbers = st.floats(0, 1e6)
some_ms = st.none() | numbers
names = st.sampled_from(list(MENU.named))
budgets = st.builds(Budget, ttft_ms=some_ms, tpot_ms=some_ms, e2e_ms=some_ms)
timings = st.builds(Timing, ttft_ms=numbers, tpot_ms=numbers, e2e_ms=numbers)
requests = st.builds(
    Request,
    prompt=st.lists(st.integers(0, 10**6), min_size=1, max_size=20).map(tuple),
    max_tokens=st.integers(1, 1000),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1),
        top_k=st.integers(0, 100),
        logit_bias=st.dictionaries(st.integers(0, 300), st.floats(-100, 100), max_size=3),
        min_tokens=st.integers(0, 5),
    ),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    budget=budgets,
    asked=st.none() | budgets,
    delivery=st.builds(Delivery, first_ms=numbers, end_ms=numbers),
    pinned=st.none() | st.sampled_from(list(MENU.named.values())),
    strict=st.booleans(),
    ignore_eos=st.booleans(),
    top_logprobs=st.none() | st.integers(0, 20),
    whole=st.booleans(),
    priority=st.integers(-5, 5),
    label=st.text(),
)
events = st.one_of(
    st.builds(Token, st.integers(0, 10**6), names, numbers),
    st.builds(Token, st.integers(0, 10**6), names, numbers, st.floats(-99, 0), st.just(((1, -0.5), (2, -1.5)))),
    st.builds(
        Admitted,
        names,
        st.builds(Expectation, forecast=timings, waited_ms=numbers, likely=timings, low=timings, high=timings),
        numbers,
    ),
    st.builds(Ended, st.sampled_from(["stop", "length", "cancelled"]), numbers),
    st.builds(ResponseFailed, st.text()),
)


def over_the_wire(value: object) -> object:
    line = frame("it", value)
    assert line.count(b"\n") == 1
    return json.loads(line)["it"]


@given(requests)
def test_requests(request: Request) -> None:
    assert read_request(over_the_wire(adapted(REQUESTS, request))) == request


@given(st.integers(0, 2**40), events)
def test_events(number: int, event: Event) -> None:
    sent = over_the_wire(event_json(number, event))
    assert (sent[0], read_event(sent, 0.0)) == (number, event)


def test_cards_and_reports() -> None:
    card = ReplicaCard(
        id="a",
        kind="small",
        cost=0.5,
        costs=COSTS.corrected(slowdown=2.0, prompt_slowdown=1.5, overhead_ms=0.25),
        universal=MENU.universal,
        named=MENU.named,
        elastic=MENU.elastic,
        capacity=Capacity(slots=3),
        n_blocks=7,
    )
    assert read_card(over_the_wire(adapted(CARDS, card))) == card
    report = ReplicaReport(
        now_s=5.0,
        slowdown=1.25,
        deviation=Deviation(horizons_ms=(1.0, 2.0), likely=((1.0, 1.1),) * 3, safe=((1.5, 1.2),) * 3),
        others=(
            OtherJob(
                prompt=3, max_tokens=4, produced=1, arrived_ms=2.0, due_ms=None, pinned=MENU.named["S"], runs=True
            ),
        ),
        draining=True,
        failure="gone",
    )
    assert REPORTS.validate_python(over_the_wire(adapted(REPORTS, report))) == report
