"""What goes wrong around the engine stays where it went wrong: every client gets an answer, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lts_ray.decoding.sampling import Sampling
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.engine_errors import EngineFailedError, QueueFullError
from serve.engine.engine_health import MAX_FAILED_STEPS
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Refusal, StepRecord
from serve.engine.response import Response
from serve.policies.admission import Choice, judge
from serve.policies.menu import Menu
from serve.policies.policy import Plan, Situation
from serve.policies.request import Request
from tests.serve.models import COSTS, Notes, alone, collect, tiny_engine, tiny_model, tiny_runtime

ENDLESS = Request(prompt=(1, 2), max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@dataclass
class Failing:
    """A runtime that raises at the steps that it is told to, counted from 1."""

    runtime: Runtime
    fails: Callable[[int], BaseException | None]
    steps: int = 0

    @property
    def config(self) -> MatFormerConfig:
        return self.runtime.config

    @property
    def n_blocks(self) -> int:
        return self.runtime.n_blocks

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    def run(self, segments: Sequence[Segment]) -> Tensor:
        self.steps += 1
        if (error := self.fails(self.steps)) is not None:
            raise error
        return self.runtime.run(segments)


@pytest.mark.parametrize("step", [1, 2, 9])
def test_a_failed_step_fails_its_requests_and_nobody_else(model: MatFormer, step: int) -> None:
    """Two run, two wait: these get all their tokens, and the blocks of the failed ones are free again."""
    runtime = Failing(tiny_runtime(model, 8), lambda n: RuntimeError("out of\nmemory") if n == step else None)
    notes = Notes()
    engine = tiny_engine(runtime, slots=2, observers=[notes])

    async def main() -> list[object]:
        responses = [engine.submit(replace(ENDLESS, prompt=(index,))) for index in range(1, 5)]
        engine.start()
        return await asyncio.gather(*map(collect, responses), return_exceptions=True)

    results = asyncio.run(main())
    engine.check()
    assert engine.counts() == (0, 0)
    engine.stop()
    for failed in results[:2]:
        assert isinstance(failed, EngineFailedError)
        assert str(failed) == "the step failed: RuntimeError: out of"
    assert results[2:] == [alone(model, replace(ENDLESS, prompt=(index,)), eos_ids=()) for index in (3, 4)]
    assert [reason for _, _, reason in notes.ends] == [None, None, "length", "length"]
    assert notes.steps[-1].kv_usage == 0


def test_an_engine_whose_steps_keep_failing_says_so_and_takes_nothing_more(model: MatFormer) -> None:
    runtime = Failing(tiny_runtime(model), lambda n: RuntimeError("out of memory") if n != 2 else None)
    engine = tiny_engine(runtime)
    request = Request(prompt=(1,), max_tokens=1)

    async def main() -> None:
        engine.start()
        with pytest.raises(EngineFailedError, match="out of memory"):
            await collect(engine.submit(request))
        assert len(await collect(engine.submit(request))) == 1  # and the count starts anew
        for _ in range(MAX_FAILED_STEPS):
            engine.check()
            with pytest.raises(EngineFailedError, match="out of memory"):
                await collect(engine.submit(request))
        for refused in (engine.check, lambda: engine.submit(request)):
            with pytest.raises(EngineFailedError, match=f"last {MAX_FAILED_STEPS} steps failed"):
                refused()

    asyncio.run(main())
    engine.stop()


@dataclass
class OnGpu(Failing):
    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_lost_gpu_fails_all_at_once_and_the_engine_for_good(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """An error of a kernel fails every later call of the process: one that is waited for says which it is."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")
    runtime = OnGpu(tiny_runtime(model), lambda n: error if n == 3 else None)
    engine = tiny_engine(runtime, slots=1)

    def synchronize(device: torch.device) -> None:
        if is_lost:
            raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)

    async def main() -> list[object]:
        responses = [engine.submit(replace(ENDLESS, max_tokens=9)) for _ in range(3)]
        engine.start()
        return await asyncio.gather(*map(collect, responses), return_exceptions=True)

    failed, *others = asyncio.run(main())
    assert str(failed) == "the step failed: RuntimeError: CUDA error: an illegal memory access was encountered"
    if is_lost:
        lost = "the GPU is lost: CUDA error: an illegal memory access was encountered; see the server's log"
        assert [str(other) for other in others] == [lost] * 2
        assert runtime.steps == 3
        with pytest.raises(EngineFailedError, match="the GPU is lost"):
            engine.check()
    else:
        assert [len(other) for other in others if isinstance(other, list)] == [9, 9]
        engine.check()
    engine.stop()


class Confused:
    name = "confused"

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        if situation.running:
            raise ZeroDivisionError("nothing to share")
        jobs = situation.waiting
        return Plan(options={job.id: menu.universal for job in jobs}, order=tuple(job.id for job in jobs))


def test_a_policy_that_fails_fails_those_who_are_there_and_can_be_replaced(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model))
    fixed = engine.policy
    engine.use_policy(Confused())

    async def main() -> None:
        responses = [engine.submit(ENDLESS) for _ in range(2)]
        engine.start()
        for response in responses:
            with pytest.raises(EngineFailedError, match="ZeroDivisionError: nothing to share"):
                await collect(response)
        engine.use_policy(fixed)
        assert len(await collect(engine.submit(ENDLESS))) == 60

    asyncio.run(main())
    engine.stop()


def test_a_request_whose_token_cannot_be_chosen_fails_alone(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model))

    async def main() -> None:
        other = engine.submit(ENDLESS)
        broken = engine.submit(replace(ENDLESS, sampling=Sampling(logit_bias={10**6: 1.0})))
        engine.start()
        with pytest.raises(EngineFailedError, match="choosing a token failed: IndexError"):
            await collect(broken)
        assert await collect(other) == alone(model, ENDLESS, eos_ids=())
        engine.check()

    asyncio.run(main())
    engine.stop()


def test_a_thread_that_dies_leaves_nobody_waiting(model: MatFormer) -> None:
    engine = tiny_engine(Failing(tiny_runtime(model), lambda n: SystemExit("killed") if n == 3 else None), slots=1)

    async def main() -> None:
        responses = [engine.submit(ENDLESS) for _ in range(2)]
        engine.start()
        for response in responses:
            with pytest.raises(EngineFailedError, match="thread has died"):
                await collect(response)
        for refused in (engine.check, lambda: engine.submit(ENDLESS)):
            with pytest.raises(EngineFailedError, match="thread has died"):
                refused()

    asyncio.run(main())
    engine.stop()


class Grumbling(Notes):
    def stepped(self, record: StepRecord) -> None:
        super().stepped(record)
        raise ValueError("too many")


def test_an_observer_that_fails_stops_nobody(model: MatFormer) -> None:
    notes = Grumbling()
    engine = tiny_engine(tiny_runtime(model), observers=[notes])

    async def main() -> None:
        engine.start()
        assert len(await collect(engine.submit(ENDLESS))) == 60

    asyncio.run(main())
    engine.stop()
    assert len(notes.steps) == 60


def test_a_cancelled_request_frees_its_place_for_the_next_one(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model), slots=1)

    async def main() -> None:
        engine.start()
        first, waiting, third = (engine.submit(replace(ENDLESS, max_tokens=n)) for n in (90, 90, 2))
        async for _ in first:
            break
        first.cancel()
        waiting.cancel()
        assert len(await collect(third)) == 2
        assert await collect(waiting) == []
        assert waiting.finish_reason == "cancelled"
        assert engine.counts() == (0, 0)
        third.cancel()  # has ended: no effect
        assert third.finish_reason == "length"

    asyncio.run(main())
    engine.stop()


def test_a_client_whose_event_loop_is_gone_is_cancelled(model: MatFormer) -> None:
    notes = Notes()
    engine = tiny_engine(tiny_runtime(model), observers=[notes])

    async def submit() -> Response:
        return engine.submit(replace(ENDLESS, max_tokens=90))

    asyncio.run(submit())
    asyncio.run(submit())

    async def other() -> None:
        response = engine.submit(ENDLESS)
        engine.start()
        assert len(await collect(response)) == 60

    asyncio.run(other())
    engine.stop()
    assert sorted(str(reason) for _, _, reason in notes.ends) == ["cancelled", "cancelled", "length"]


def test_a_full_queue_refuses_and_keeps_nothing(model: MatFormer) -> None:
    engine = tiny_engine(tiny_runtime(model), slots=1, max_queue=2)
    request = replace(ENDLESS, max_tokens=2)

    async def main() -> None:
        responses = [engine.submit(request) for _ in range(2)]  # not started: they wait
        with pytest.raises(QueueFullError, match="2 requests are waiting") as refusal:
            engine.submit(request)
        assert refusal.value.retry_after_s >= 1
        assert engine.counts() == (0, 2)
        engine.start()
        assert [len(await collect(response)) for response in responses] == [2, 2]

    asyncio.run(main())
    engine.stop()


class Refusals(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[Refusal] = []

    def refused(self, reason: Refusal) -> None:
        self.reasons.append(reason)


def test_a_refusal_is_counted_once_whether_the_queue_fills_before_or_while_a_request_is_judged(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Refusals()
    engine = tiny_engine(tiny_runtime(model), max_queue=1, observers=[notes])

    def overtaken(*given: Any) -> Choice:
        monkeypatch.undo()
        engine.submit(ENDLESS)
        return judge(*given)

    async def main() -> None:
        monkeypatch.setattr("serve.engine.engine.judge", overtaken)
        for n in (1, 2):
            with pytest.raises(QueueFullError):
                engine.submit(replace(ENDLESS, strict=True))  # others are not judged
            assert notes.reasons == ["queue_full"] * n
            assert engine.counts() == (0, 1)

    asyncio.run(main())


@pytest.mark.parametrize("starts", [True, False])
def test_stop_answers_those_who_are_still_there(model: MatFormer, starts: bool) -> None:
    engine = tiny_engine(tiny_runtime(model), slots=1)

    async def main() -> None:
        responses = [engine.submit(replace(ENDLESS, max_tokens=90)) for _ in range(2)]
        if starts:
            engine.start()
        await asyncio.to_thread(engine.stop)
        with pytest.raises(EngineFailedError, match="shutting down"):
            await collect(responses[1])
        with pytest.raises(EngineFailedError, match="shutting down"):
            engine.submit(ENDLESS)

    asyncio.run(main())


def test_an_answer_that_breaks_while_its_last_token_is_on_its_way_counts_as_broken_once(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Notes):
        times = 0

        def broken(self) -> None:
            self.times += 1

    notes, times = Counting(), LearnedTimes(COSTS)
    engine = tiny_engine(tiny_runtime(model), times=times, observers=[notes])
    request = Request(prompt=(1, 2), max_tokens=3, ignore_eos=True)

    async def main() -> None:
        response = engine.submit(request)
        # The engine's thread notes a response between its last token and its leaving.
        monkeypatch.setattr(times.responses, "note", lambda progress, *, whole: response.cancel("failed"))
        engine.start()
        await collect(response)

    asyncio.run(main())
    engine.stop()
    assert notes.times == 1
    assert [reason for _, _, reason in notes.ends] == ["length"]
