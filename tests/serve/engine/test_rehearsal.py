"""What an engine learns before the first request, and that nothing else of it stays."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from lts_ray.models.matformer.matformer import MatFormer
from serve.engine import rehearsal
from serve.engine.engine_errors import EngineFailedError
from serve.engine.learned_times import LearnedTimes
from serve.engine.rehearsal import _companies, rehearse
from serve.policies.capacity import Capacity
from serve.policies.deviation import Deviation
from serve.policies.named_policies import policy_named
from serve.policies.request import Request
from tests.serve.models import COSTS, alone, tiny_engine, tiny_model, tiny_runtime


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@pytest.mark.parametrize("capacity", [Capacity(slots=4), Capacity(slots=1, max_queue=1)])
def test_a_rehearsal_teaches_times_and_leaves_nothing_else(
    model: MatFormer, capacity: Capacity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends with all its companies once, however long they take."""
    monkeypatch.setattr(rehearsal, "_companies", lambda engine: islice(_companies(engine), 8))
    runtime, times = tiny_runtime(model), LearnedTimes(COSTS)
    before: Deviation = times.deviation
    first = tiny_engine(runtime, times=times, policy=policy_named("deadline"), capacity=capacity)
    rehearse(first, seconds=600)
    assert times.costs != COSTS
    assert times.deviation != before
    with pytest.raises(EngineFailedError, match="shutting down"):
        first.check()

    second = tiny_engine(runtime, times=times, capacity=capacity)
    second.start()
    request = Request(prompt=(1, 2, 3), max_tokens=8)

    async def main() -> list[int]:
        return [token.id async for tokens in second.submit(request) for token in tokens]

    assert asyncio.run(main()) == alone(model, request)
    assert second.counts() == (0, 0)
    second.stop()


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [
        (Capacity.on("cpu"), [1, 8, 2, 4]),
        (Capacity.on("cuda"), [1, 64, 16, 32]),
        (Capacity(slots=2, max_queue=1), [1, 1, 1, 1]),
    ],
    ids=["cpu", "gpu", "small"],
)
def test_as_many_rehearse_as_may_run_together(model: MatFormer, capacity: Capacity, sizes: list[int]) -> None:
    engine = tiny_engine(tiny_runtime(model), capacity=capacity)
    assert [len(together) for together in islice(_companies(engine), 4)] == sizes
