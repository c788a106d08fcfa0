"""The engine against the plain loop, with toy models on the real thread. Nothing here depends on how fast it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import pytest
import torch

from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.engine import Engine
from serve.engine.engine_errors import BudgetInfeasibleError
from serve.engine.response import Response, Token
from serve.policies.budget import Budget
from serve.policies.menu import Menu
from serve.policies.named_policies import POLICIES, policy_named
from serve.policies.policy import Plan, Situation
from serve.policies.request import Request
from tests.serve.models import CONFIG, COSTS, Notes, alone, collect, tiny_engine, tiny_menu, tiny_model, tiny_runtime

MENU = tiny_menu()
NAMES = list(CONFIG.trained)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@pytest.fixture
def engine(model: MatFormer) -> Iterator[Engine]:
    engine = tiny_engine(tiny_runtime(model))
    yield engine
    engine.stop()


def requests_of_all_kinds(n: int) -> list[Request]:
    """Of every width, greedy ones and sampled ones, short and long."""
    draw = random.Random(1)
    return [
        Request(
            prompt=tuple(draw.randrange(1, 300) for _ in range(draw.randrange(1, 30))),
            max_tokens=draw.randrange(1, 40),
            pinned=MENU.named[NAMES[index % 4]] if index % 5 else None,
            sampling=Sampling(temperature=0.5, top_p=0.9) if index % 3 == 0 else Sampling(),
            seed=index,
        )
        for index in range(n)
    ]


def run(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """Submit all before the first step, and read all."""

    async def main() -> list[list[int]]:
        responses = [engine.submit(request) for request in requests]
        engine.start()
        return await asyncio.gather(*map(collect, responses))

    try:
        return asyncio.run(main())
    finally:
        engine.stop()


def test_the_fastest_runtime_of_this_machine_serves_the_same(model: MatFormer) -> None:
    requests = requests_of_all_kinds(12)
    engine = tiny_engine(build_runtime(model, n_blocks=6, threads=1), chunk_tokens=16)
    assert run(engine, requests) == [alone(model, request) for request in requests]


@pytest.mark.parametrize(
    ("slots", "chunk_tokens", "n_blocks", "preempts"),
    [(1, 256, 16, False), (4, 256, 24, False), (4, 5, 24, False), (4, 33, 5, True), (8, 16, 6, True)],
    ids=["one-by-one", "together", "tiny-pieces", "few-blocks", "many-in-few-blocks"],
)
def test_each_response_is_what_generate_gives_alone_whatever_else_runs(
    model: MatFormer, slots: int, chunk_tokens: int, n_blocks: int, preempts: bool
) -> None:
    requests, notes = requests_of_all_kinds(16), Notes()
    engine = tiny_engine(tiny_runtime(model, n_blocks), slots=slots, chunk_tokens=chunk_tokens, observers=[notes])
    assert run(engine, requests) == [alone(model, request) for request in requests]
    assert any(record.preempted for record in notes.steps) == preempts


def test_a_common_beginning_is_run_once_and_changes_no_token(model: MatFormer) -> None:
    beginning, notes = tuple(range(1, 41)), Notes()
    requests = [
        Request(prompt=(*beginning, 50 + index), max_tokens=6, pinned=MENU.named[NAMES[3 - index % 2]])
        for index in range(8)
    ]
    engine = tiny_engine(tiny_runtime(model), slots=2, observers=[notes])
    assert run(engine, requests) == [alone(model, request) for request in requests]
    # Two at a time, of two widths: the first of each width runs it all, the others take its two whole blocks.
    assert sum(record.reused_tokens for record in notes.steps) == 6 * 32
    assert sum(record.prompt_tokens for record in notes.steps) == 8 * 41 - 6 * 32


def test_a_seed_gives_the_same_text_alone_and_among_others(model: MatFormer) -> None:
    request = Request(prompt=(5, 6, 7), max_tokens=30, sampling=Sampling(temperature=1.0, top_k=50), seed=11)
    others = [replace(request, prompt=(index, index), seed=index) for index in range(1, 7)]
    [by_itself] = run(tiny_engine(tiny_runtime(model)), [request])
    for n_blocks in (32, 5):
        together = run(tiny_engine(tiny_runtime(model, n_blocks)), [*others[:3], request, *others[3:]])
        assert together[3] == by_itself
    assert by_itself != run(tiny_engine(tiny_runtime(model)), [replace(request, seed=12)])[0]


class ByTurns:
    """Every step another width, for everybody."""

    name = "by-turns"

    def __init__(self) -> None:
        self._turns = count()

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        option = menu.elastic[next(self._turns) % len(menu.elastic)]
        jobs = (*situation.running, *situation.waiting)
        return Plan(
            options={job.id: option if job.elastic else menu.universal for job in jobs},
            order=tuple(job.id for job in situation.waiting),
        )


def test_a_response_may_change_its_width_at_every_token(model: MatFormer) -> None:
    """The tokens are those of the plain loop that changes its width when the engine did; a neighbour's stay its own."""
    request = Request(prompt=(1, 2, 3), max_tokens=20, budget=Budget(e2e_ms=1.0))
    other = Request(prompt=(4, 5), max_tokens=20)
    engine = tiny_engine(tiny_runtime(model), policy=ByTurns(), eos_ids=frozenset())

    async def main() -> tuple[list[Token], list[int], Response]:
        response = engine.submit(request)
        second = engine.submit(other)
        engine.start()
        tokens = [token async for tokens in response for token in tokens]
        return tokens, await collect(second), response

    tokens, second, response = asyncio.run(main())
    engine.stop()
    cache, following, expected = KVCache.empty(CONFIG, rows=1, length=96, dtype=torch.float32), [1, 2, 3], []
    for token in tokens:
        with torch.inference_mode():
            submodel = MENU.named[token.submodel].submodel
            logits = model(torch.tensor([following]), submodel=submodel, cache=cache, last_only=True)
        following = [int(logits[0, -1].argmax())]
        expected += following
    assert [token.id for token in tokens] == expected
    assert second == alone(model, other, eos_ids=())
    assert response.progress.submodels == dict.fromkeys(NAMES, 5)


def test_the_response_says_what_ran_and_why_it_ended(model: MatFormer, engine: Engine) -> None:
    request = Request(prompt=(5, 6, 7), max_tokens=9, pinned=MENU.named["M"])
    tokens = alone(model, request)

    async def main() -> Response:
        engine.start()
        response = engine.submit(request)
        await collect(response)
        return response

    response = asyncio.run(main())
    assert response.finish_reason == ("length" if len(tokens) == 9 else "stop")
    assert response.progress.submodels == {"M": len(tokens)}
    assert response.progress.submodel == "M"
    measured, predicted = response.progress.measured(), response.progress.predicted
    assert measured is not None
    assert predicted is not None
    assert 0 < measured.ttft_ms <= measured.e2e_ms


def test_the_end_of_text_ends_a_response_unless_it_is_to_be_ignored_or_comes_too_early(model: MatFormer) -> None:
    request = Request(prompt=(5, 6, 7), max_tokens=30)
    whole = alone(model, request, eos_ids=())
    ends = frozenset(whole[10:12])
    first = next(index for index, token in enumerate(whole) if token in ends)
    requests = [
        request,
        replace(request, ignore_eos=True),
        replace(request, sampling=Sampling(min_tokens=20)),
    ]
    stopped, ignored, late = run(tiny_engine(tiny_runtime(model), eos_ids=ends), requests)
    assert stopped == whole[:first]
    assert ignored == whole
    assert late[:first] == whole[:first]
    assert len(late) >= 20
    assert not ends & set(late)


def test_log_probabilities_come_with_the_tokens_that_ask_for_them(model: MatFormer, engine: Engine) -> None:
    request = Request(prompt=(5, 6), max_tokens=4, top_logprobs=2, ignore_eos=True)

    async def main() -> list[Token]:
        response, plain = engine.submit(request), engine.submit(replace(request, top_logprobs=None))
        engine.start()
        assert [token.logprob async for tokens in plain for token in tokens] == [None] * 4
        return [token async for tokens in response for token in tokens]

    tokens = asyncio.run(main())
    assert [token.id for token in tokens] == alone(model, request, eos_ids=())
    with torch.inference_mode():
        logits = model(torch.tensor([[5, 6]]), submodel=CONFIG.universal)[0, -1]
    expected = torch.log_softmax(logits, -1).topk(2)
    assert [token for token, _ in tokens[0].top] == expected.indices.tolist()
    assert tokens[0].logprob == pytest.approx(float(expected.values[0]), abs=1e-4)


def test_who_reads_late_gets_all_that_has_come_at_once(model: MatFormer) -> None:
    notes = Notes()
    engine = tiny_engine(tiny_runtime(model), observers=[notes])

    async def main() -> list[int]:
        response = engine.submit(Request(prompt=(5, 6), max_tokens=12, ignore_eos=True))
        engine.start()
        while len(notes.steps) < 12:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # what was handed over arrives
        return [len(tokens) async for tokens in response]

    assert asyncio.run(main()) == [12]
    engine.stop()


@pytest.mark.parametrize(
    ("whole", "call_s", "wakes"),
    [(False, 0.1, range(20, 21)), (False, 1e-4, range(2, 10)), (True, 0.1, range(1, 2))],
    ids=["long steps", "short steps", "whole answers"],
)
def test_a_step_wakes_the_event_loop_once_at_most(model: MatFormer, whole: bool, call_s: float, wakes: range) -> None:
    """For all its tokens; with those of a few milliseconds where steps are short, and at the end alone where none is
    wanted before. call_s: what passes from one look at the clock to the next one."""
    engine = tiny_engine(tiny_runtime(model), clock=FakeClock(call_s))

    async def main() -> int:
        loop, calls = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *given, **named: calls.append(given) or wake(*given, **named)
        requests = [Request(prompt=(index,), max_tokens=20, ignore_eos=True, whole=whole) for index in range(4)]
        responses = [engine.submit(request) for request in requests]
        engine.start()
        assert list(map(len, await asyncio.gather(*map(collect, responses)))) == [20] * 4
        return len(calls)

    assert asyncio.run(main()) in wakes
    engine.stop()


def test_a_strict_request_is_refused_with_a_budget_that_is_then_accepted(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model), policy=policy_named("deadline"), clock=lambda: 1.0)
    request = Request(prompt=(1,) * 20, max_tokens=10, budget=Budget(e2e_ms=1.0), strict=True)

    async def main() -> None:
        with pytest.raises(BudgetInfeasibleError) as refusal:
            engine.submit(request)
        smallest = refusal.value.smallest_feasible_ms["e2e"]
        with pytest.raises(BudgetInfeasibleError):
            engine.submit(replace(request, budget=Budget(e2e_ms=smallest * 0.9)))
        engine.submit(replace(request, budget=Budget(e2e_ms=smallest)))
        engine.submit(replace(request, strict=False))
        assert engine.counts() == (0, 2)

    asyncio.run(main())


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_serves_everybody_and_leaves_alone_who_has_no_budget(model: MatFormer, name: str) -> None:
    requests = requests_of_all_kinds(12)
    hurried = [
        replace(request, pinned=None, budget=Budget(ttft_ms=1 + 10.0 * index, tpot_ms=2.0 * index or None))
        for index, request in enumerate(requests)
    ]
    notes = Notes()
    engine = tiny_engine(tiny_runtime(model, 8), policy=policy_named(name), chunk_tokens=16, observers=[notes])
    everybody = [each for pair in zip(requests, hurried, strict=True) for each in pair]
    tokens = run(engine, everybody)
    assert tokens[::2] == [alone(model, request) for request in requests]
    assert len(notes.ends) == len(everybody)


def test_the_policy_changes_while_requests_run(model: MatFormer, engine: Engine) -> None:
    request = Request(prompt=(1, 2), max_tokens=90, budget=Budget(e2e_ms=1.0), ignore_eos=True)

    async def main() -> Response:
        engine.start()
        response = engine.submit(request)
        async for _ in response:
            engine.use_policy(policy_named("smallest"))
        return response

    response = asyncio.run(main())
    assert engine.policy.name == "smallest"
    assert next(iter(response.progress.submodels)) == "XL"
    assert response.progress.submodels.keys() <= {"XL", "S"}
    with pytest.raises(LtsRayError, match="XXL"):
        engine.use_policy(policy_named("fixed", submodel="XXL"))
    assert engine.policy.name == "smallest"


def test_an_observer_is_told_of_every_step_and_every_end(model: MatFormer) -> None:
    requests, notes = requests_of_all_kinds(6), Notes()
    tokens = run(tiny_engine(tiny_runtime(model), observers=[notes], prefix_cache=False), requests)
    assert {request: progress.tokens for request, progress, _ in notes.ends} == {
        request: len(each) for request, each in zip(requests, tokens, strict=True)
    }
    assert all(
        reason == ("length" if progress.tokens == request.max_tokens else "stop")
        for request, progress, reason in notes.ends
    )
    assert sum(record.prompt_tokens for record in notes.steps) == sum(len(request.prompt) for request in requests)
    # Each token but the first comes of a decoded row; so does an end that is no token.
    ends = sum(reason == "stop" and progress.tokens > 0 for _, progress, reason in notes.ends)
    firsts = sum(progress.tokens > 0 for _, progress, _ in notes.ends)
    assert sum(record.decoded for record in notes.steps) == sum(map(len, tokens)) - firsts + ends
    assert notes.steps[0].predicted_ms > 0
    assert all(record.running <= 4 for record in notes.steps)
    assert (notes.steps[-1].running, notes.steps[-1].waiting, notes.steps[-1].kv_usage) == (0, 0, 0)


class FakeClock:
    """Time that passes by itself: a fixed amount at every reading."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@pytest.mark.parametrize("attainment", [0.99, None])
def test_the_costs_follow_the_steps_that_run(model: MatFormer, attainment: float | None) -> None:
    engine = tiny_engine(tiny_runtime(model), attainment=attainment, clock=FakeClock(0.1))
    run(engine, [Request(prompt=(1, 2), max_tokens=60, ignore_eos=True)])
    assert (engine.costs == COSTS) == (attainment is None)
    if attainment:  # 200 ms a step instead of 21.2
        assert engine.costs.slowdown * 21.2 + engine.costs.overhead_ms > 100


def test_what_does_not_fit_the_context_or_the_cache_is_refused(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model, 3))

    async def main() -> None:
        with pytest.raises(LtsRayError, match="context of 96"):
            engine.submit(Request(prompt=(1,) * 90, max_tokens=7))
        with pytest.raises(LtsRayError, match="KV cache has 3"):
            engine.submit(Request(prompt=(1,) * 40, max_tokens=20))
        assert engine.counts() == (0, 0)

    asyncio.run(main())
