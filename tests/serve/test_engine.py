"""The engine against the plain loop, with toy models on the real thread. Nothing here depends on how fast it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lts_ray.decoding.generate import generate
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer import MatFormer
from serve.budget import Budget
from serve.engine import MAX_FAILED_STEPS, Engine
from serve.errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.request import Request
from serve.response import Response
from tests.serve.models import CONFIG, STEP_COST, tiny_menu, tiny_model

MENU = tiny_menu()
NAMES = list(CONFIG.trained)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@pytest.fixture
def engine(model: MatFormer) -> Iterator[Engine]:
    engine = Engine(model, menu=MENU, step_cost=STEP_COST, eos_id=0, max_batch_size=4, max_queue=32)
    yield engine
    engine.stop()


async def collect(response: Response) -> list[int]:
    return [token.id async for token in response]


def prompts(n: int) -> list[tuple[int, ...]]:
    draw = random.Random(0)
    return [tuple(draw.randrange(1, 300) for _ in range(draw.randrange(1, 30))) for _ in range(n)]


def alone(model: MatFormer, request: Request) -> list[int]:
    submodel = MENU.universal.submodel if request.pinned is None else request.pinned.submodel
    generator = torch.Generator()
    if request.seed is not None:
        generator.manual_seed(request.seed)
    return list(
        generate(
            model,
            request.prompt,
            submodel=submodel,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            eos_id=0,
            generator=generator,
        )
    )


def test_each_response_is_what_generate_gives_alone_whatever_else_runs(model: MatFormer, engine: Engine) -> None:
    """Twelve requests of all widths through four rows: rows are reused, moved and mixed on the way."""
    draw = random.Random(1)
    requests = [
        Request(
            prompt=prompt,
            max_tokens=draw.randrange(1, 40),
            pinned=MENU.named[NAMES[index % 4]] if index % 5 else None,
            sampling=Sampling(temperature=0.5, top_p=0.9) if index % 3 == 0 else Sampling(),
            seed=index,
        )
        for index, prompt in enumerate(prompts(12))
    ]

    async def main() -> list[list[int]]:
        responses = [engine.submit(request) for request in requests]
        engine.start()
        return await asyncio.gather(*map(collect, responses))

    assert asyncio.run(main()) == [alone(model, request) for request in requests]


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
    measured, predicted = response.progress.measured(), response.progress.predicted
    assert measured is not None
    assert predicted is not None
    assert 0 < measured.ttft_ms <= measured.e2e_ms


def test_a_cancelled_request_frees_its_place_for_the_next_one(model: MatFormer) -> None:
    engine = Engine(model, menu=MENU, step_cost=STEP_COST, eos_id=None, max_batch_size=1)

    async def main() -> None:
        engine.start()
        first = engine.submit(Request(prompt=(1,), max_tokens=90))
        waiting = engine.submit(Request(prompt=(2,), max_tokens=90))
        third = engine.submit(Request(prompt=(3,), max_tokens=2))
        async for _ in first:
            break
        first.cancel()
        waiting.cancel()
        assert len(await collect(third)) == 2
        assert await collect(waiting) == []
        assert waiting.finish_reason == "cancelled"
        assert engine.counts() == (0, 0)

    asyncio.run(main())
    engine.stop()


def test_a_full_queue_refuses_and_keeps_nothing(model: MatFormer) -> None:
    engine = Engine(model, menu=MENU, step_cost=STEP_COST, eos_id=None, max_batch_size=1, max_queue=2)
    request = Request(prompt=(1,), max_tokens=2)

    async def main() -> None:
        responses = [engine.submit(request) for _ in range(2)]  # not started: they wait
        with pytest.raises(QueueFullError):
            engine.submit(request)
        assert engine.counts() == (0, 2)
        engine.start()
        assert [len(await collect(response)) for response in responses] == [2, 2]

    asyncio.run(main())
    engine.stop()


def test_a_strict_request_is_refused_with_a_budget_that_is_then_accepted(engine: Engine) -> None:
    request = Request(prompt=(1,) * 20, max_tokens=10, budget=Budget(e2e_ms=1.0), strict=True)

    async def main() -> None:
        with pytest.raises(BudgetInfeasibleError) as refusal:
            engine.submit(request)
        smallest = refusal.value.smallest_feasible_ms["e2e"]
        engine.submit(replace(request, budget=Budget(e2e_ms=smallest)))
        with pytest.raises(BudgetInfeasibleError):
            engine.submit(replace(request, budget=Budget(e2e_ms=smallest * 0.9)))

    asyncio.run(main())


class FakeClock:
    """Time that passes by itself: a fixed amount at every reading."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def test_a_running_request_is_narrowed_when_its_budget_would_be_missed(model: MatFormer) -> None:
    """The steps take longer than predicted, so what fitted at first does not fit later; the pinned row stays."""
    engine = Engine(model, menu=MENU, step_cost=STEP_COST, eos_id=None, clock=FakeClock(0.02))

    async def main() -> tuple[Response, Response, Response]:
        requests = [
            Request(prompt=(1, 2), max_tokens=60, budget=Budget(e2e_ms=2500.0)),
            Request(prompt=(3, 4), max_tokens=60, pinned=MENU.named["L"], budget=Budget(e2e_ms=2500.0)),
            Request(prompt=(5, 6), max_tokens=60),
        ]
        first, second, third = (engine.submit(request) for request in requests)
        engine.start()
        await asyncio.gather(*map(collect, (first, second, third)))
        return first, second, third

    first, second, third = asyncio.run(main())
    engine.stop()
    assert len(first.progress.submodels) > 1
    order = [MENU.named[name].neurons for name in first.progress.submodels]  # in the order of first use
    assert order == sorted(order, reverse=True)
    assert second.progress.submodels == {"L": 60}
    assert third.progress.submodels == {"XL": 60}


class FailingModel(MatFormer):
    """Fails in the steps that have the row count to fail at."""

    fail_at: int = 0

    def forward(self, tokens: torch.Tensor, **keywords: object) -> torch.Tensor:
        if self.fail_at and tokens.shape == (self.fail_at, 1):
            raise RuntimeError("out of memory")
        return super().forward(tokens, **keywords)  # type: ignore[arg-type]


def test_a_failed_step_answers_its_requests_and_the_engine_goes_on() -> None:
    model = FailingModel(CONFIG)
    model.load_state_dict(tiny_model().state_dict())
    engine = Engine(model.eval(), menu=MENU, step_cost=STEP_COST, eos_id=None)
    request = Request(prompt=(1, 2), max_tokens=5)

    async def main() -> None:
        model.fail_at = 1
        engine.start()
        with pytest.raises(EngineFailedError, match="out of memory"):
            await collect(engine.submit(request))
        model.fail_at = 0
        assert len(await collect(engine.submit(request))) == 5
        engine.check()
        model.fail_at = 1
        for _ in range(MAX_FAILED_STEPS):
            with pytest.raises(EngineFailedError):
                await collect(engine.submit(request))

    asyncio.run(main())
    engine.stop()


def test_stop_answers_those_who_still_wait(model: MatFormer) -> None:
    engine = Engine(model, menu=MENU, step_cost=STEP_COST, eos_id=None, max_batch_size=1)

    async def main() -> None:
        waiting = [engine.submit(Request(prompt=(1,), max_tokens=90)) for _ in range(2)]
        engine.start()
        await asyncio.to_thread(engine.stop)
        for response in waiting:
            with pytest.raises(EngineFailedError, match="shutting down"):
                await collect(response)
        with pytest.raises(EngineFailedError, match="shutting down"):
            engine.submit(Request(prompt=(1,), max_tokens=1))

    asyncio.run(main())


def test_what_does_not_fit_the_context_is_refused(engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(LtsRayError, match="context of 96"):
            engine.submit(Request(prompt=(1,) * 90, max_tokens=7))

    asyncio.run(main())
