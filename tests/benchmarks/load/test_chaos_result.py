"""Answers judged by what their clients saw and when things died."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.load.chaos_answer import ChaosAnswer, ChaosRequest, draw_requests
from benchmarks.load.chaos_result import ChaosResult, Strike, judge_answer, pause_s

GREEDY, BUDGET = (ChaosRequest(number=number, model="m", prompt=[1, 2], max_tokens=3) for number in (0, 3))
WANTED = {0: "abc", 3: "xyz"}


def answer(request: ChaosRequest = GREEDY, **seen: Any) -> ChaosAnswer:
    whole = {"sent_s": 10.0, "ended_s": 13.0, "token_s": [11.0, 12.0, 12.5], "text": "abc", "reason": "length"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    return ChaosAnswer(request=request, **({**whole, "usage": usage} | seen))


def strike(at_s: float, *, name: str = "replica", whole_s: float = 20.0, took_ingress: bool = False) -> Strike:
    return Strike(name=name, at_s=at_s, whole_s=whole_s, process="one", took_ingress=took_ingress)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ({}, "whole"),
        ({"text": "abd"}, "wrong"),
        ({"text": "abd", "request": BUDGET}, "whole"),
        ({"usage": {"prompt_tokens": 2, "completion_tokens": 4}}, "lost"),
        ({"usage": {}}, "lost"),
        ({"reason": "stop"}, "lost"),
        ({"broken": "ReadError: "}, "lost"),
        ({"error": "the engine is gone", "text": "ab", "usage": {}, "reason": None}, "error"),
    ],
    ids=str,
)
def test_only_whole_answers_and_errors_that_say_so_are_right(seen: dict[str, Any], verdict: str) -> None:
    assert judge_answer(answer(**seen), [strike(11.5)], WANTED) == verdict


@pytest.mark.parametrize(("at_s", "verdict"), [(8.0, "lost"), (9.5, "broken"), (12.0, "broken"), (14.5, "lost")])
def test_a_connection_may_break_where_its_own_other_end_was_killed(at_s: float, verdict: str) -> None:
    broken = answer(broken="ReadError: ", reason=None, usage={}, text="ab")
    assert judge_answer(broken, [strike(at_s, name="ingress", took_ingress=True)], WANTED) == verdict
    assert judge_answer(answer(), [strike(at_s, name="ingress", took_ingress=True)], WANTED) == "whole"


def test_a_stream_that_moved_stood_still_from_the_fault_to_its_next_token() -> None:
    moved = answer(lts={"migrations": 1}, token_s=[9.0, 11.0, 11.125, 12.0, 12.125])
    assert pause_s(moved, [strike(5.0), strike(11.5), strike(13.0)]) == 0.5
    assert pause_s(moved, [strike(5.0), strike(11.0625), strike(12.0625)]) == 0.875  # one was on its way already
    assert pause_s(moved, [strike(5.0), strike(13.0)]) is None
    assert pause_s(answer(lts={"migrations": 0}), [strike(11.5)]) is None


def test_budgets_count_apart_where_a_fault_is_near() -> None:
    result = ChaosResult(seed=0, rate=1.0, load=0.7, strikes=[strike(12.0, whole_s=30.0)])
    for sent_s, met in ((10.0, False), (29.0, True), (31.0, True), (5.0, True), (32.0, False)):
        one = answer(BUDGET, sent_s=sent_s, ended_s=sent_s + 3, lts={"budget_met": met})
        result.add(one, WANTED)
    result.add(answer(lts={"budget_met": None}), WANTED)
    assert result.budgets == {"kept between": 2, "missed between": 1, "kept near": 1, "missed near": 1}
    assert result.summary()["budgets kept between faults"] == pytest.approx(2 / 3)
    assert result.violations == []


def test_what_is_lost_is_told_and_all_of_it_is_json() -> None:
    result = ChaosResult(seed=0, rate=1.0, load=0.7, strikes=[strike(11.5)])
    result.add(answer(text="abd"), WANTED)
    result.add(answer(error="the engine is gone"), WANTED)
    result.add(answer(lts={"migrations": 2}), WANTED)
    assert [line.split(":")[0] for line in result.violations] == ["wrong"]
    assert result.answers == {"wrong": 1, "error": 1, "whole": 1}
    written = json.loads(json.dumps(result.to_json()))
    assert written["fault to next token p99 ms"] == 500
    assert written["errors"] == {"the engine is gone": 1}
    assert result.rows() == [{"fault": "replica", "times": "1", "whole after, median": "8.5 s", "longest": "8.5 s"}]


def test_requests_are_of_all_styles_and_the_pinned_ones_of_every_submodel() -> None:
    requests = draw_requests(24, seed=1, models=["m", "m:S", "m:M", "m:L"], vocab_size=50, context=64)
    assert requests == draw_requests(24, seed=1, models=["m", "m:S", "m:M", "m:L"], vocab_size=50, context=64)
    assert {(request.style, request.model) for request in requests} == {
        *(("pinned", name) for name in ("m:S", "m:M", "m:L")),
        *((style, "m") for style in ("greedy", "seeded", "budget")),
    }
    assert all(len(request.prompt) + request.max_tokens <= 64 for request in requests)
