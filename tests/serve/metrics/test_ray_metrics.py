"""What reaches Ray's pipeline, with counters and gauges in the place of Ray's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.serve import metrics as ray_serve

from serve.engine.engine import Engine
from serve.engine.engine_errors import EngineFailedError
from serve.engine.observer import Load, StepRecord
from serve.engine.response import Progress, Response
from serve.metrics.prometheus_metrics import PrometheusMetrics
from serve.metrics.ray_metrics import RayMetrics
from serve.policies.budget import Budget
from serve.policies.request import Request
from tests.serve.metrics.test_prometheus_metrics import scraped, step
from tests.serve.models import collect, tiny_engine, tiny_model, tiny_runtime


@dataclass
class Recorder:
    """Both of Ray's kinds, with Ray's refusals. values: by name and tags."""

    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    sets: int = 0

    def make(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert description
        assert name.replace("_", "").isalnum()
        recorder = self

        class One:
            def inc(self, value: float, tags: dict[str, str]) -> None:
                assert value > 0
                self.set(recorder.values.get(self.key(tags), 0) + value, tags)

            def set(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == tag_keys
                recorder.values[self.key(tags)] = value
                recorder.sets += 1

            def key(self, tags: dict[str, str]) -> tuple[str, ...]:
                return (name, *list(tags.values())[1:])

        return One()


def observers() -> tuple[PrometheusMetrics, RayMetrics, Recorder]:
    recorder = Recorder()
    ray_metrics = RayMetrics(model_name="sotu", counter=recorder.make, gauge=recorder.make)
    return PrometheusMetrics(model_name="sotu"), ray_metrics, recorder


def test_ray_gets_what_a_scrape_sees() -> None:
    ours, rays, recorder = observers()
    steps: list[StepRecord] = [step(at_s=number * 0.3, running=5 - number) for number in range(6)]
    progress = Progress(arrived_s=0.0, submodels=Counter(S=3, XL=2), first_s=0.1, last_s=0.5, ended_s=0.5)
    for observer in (ours, rays):
        for each in steps:
            observer.stepped(each)
        observer.ended(Request(prompt=(1,), max_tokens=5, budget=Budget(ttft_ms=99, e2e_ms=501)), progress, "length")
        observer.refused("queue_full")
    seen = scraped(ours)
    expected: dict[tuple[str, ...], float] = {
        ("vllm_request_success_total", "length"): seen['vllm:request_success_total{finished_reason="length"}'],
        ("lts_requests_with_budget_total", "ttft", "false"): 1,
        ("lts_requests_with_budget_total", "e2e", "true"): 1,
        ("lts_requests_with_budget_total", "all", "false"): 1,
        ("lts_requests_refused_total", "queue_full"): 1,
        ("lts_submodel_tokens_total", "S"): 3,
        ("lts_submodel_tokens_total", "XL"): 2,
        **{
            (name.replace(":", "_"),): seen[name]
            for name in (
                "vllm:prompt_tokens_total",
                "vllm:generation_tokens_total",
                "vllm:num_preemptions_total",
                "lts:submodel_switches_total",
                "vllm:num_requests_running",
                "vllm:num_requests_waiting",
                "vllm:kv_cache_usage_perc",
            )
        },
    }
    assert recorder.values == expected


def test_steps_are_recorded_together_and_the_one_that_empties_the_batch_at_once() -> None:
    _, rays, recorder = observers()
    rays.stepped(step(at_s=0.0))
    first = recorder.sets
    rays.stepped(step(at_s=0.5))
    assert recorder.sets == first
    rays.stepped(step(at_s=0.6, running=0))
    assert recorder.sets == 2 * first
    assert recorder.values["vllm_num_requests_running",] == 0
    assert recorder.values["vllm_num_preemptions_total",] == 3


async def stops(engine: Engine, response: Response, waiting: Response) -> None:
    """As by a stop string, which the engine does not know."""
    async for _ in response:
        break
    response.cancel("stop")
    waiting.cancel("stop")


async def leaves(engine: Engine, response: Response, waiting: Response) -> None:
    async for _ in response:
        break
    waiting.cancel()
    response.cancel()


async def leaves_at_once(engine: Engine, response: Response, waiting: Response) -> None:
    response.cancel()
    waiting.cancel()


async def cannot_be_written(engine: Engine, response: Response, waiting: Response) -> None:
    async for _ in response:
        break
    response.cancel("failed")
    waiting.cancel("failed")


async def fails_in_a_step(engine: Engine, response: Response, waiting: Response) -> None:
    engine._runtime = None  # type: ignore[assignment]
    for each in (response, waiting):
        with pytest.raises(EngineFailedError):
            await collect(each)


async def comes_to_its_end(engine: Engine, response: Response, waiting: Response) -> None:
    assert len(await collect(response)) == len(await collect(waiting)) == 60


async def is_shut_down(engine: Engine, response: Response, waiting: Response) -> None:
    await asyncio.to_thread(engine.stop)


@pytest.mark.parametrize(
    "ends", [stops, leaves, leaves_at_once, cannot_be_written, fails_in_a_step, comes_to_its_end, is_shut_down]
)
def test_an_idle_engine_has_gauges_at_zero_however_its_last_requests_went(
    ends: Callable[[Engine, Response, Response], Awaitable[None]],
) -> None:
    """Of two requests one runs and one waits. The engine's own load is zero as soon as the reader has said so."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    ours, rays, recorder = observers()
    engine = tiny_engine(tiny_runtime(tiny_model()), slots=1, observers=[ours, rays])
    request = Request(prompt=(1, 2), max_tokens=60, ignore_eos=True)

    async def main() -> None:
        response, waiting = engine.submit(request), engine.submit(request)
        engine.start()
        await ends(engine, response, waiting)
        assert engine.load() == Load()
        while [recorder.values.get((name.replace(":", "_"),)) for name in names] != [0, 0, 0]:
            await asyncio.sleep(0.001)  # by the engine's thread, which has nothing else to do

    asyncio.run(asyncio.wait_for(main(), 600))
    engine.stop()
    assert [scraped(ours)[name] for name in names] == [0, 0, 0]
    prompts = scraped(ours)["vllm:prompt_tokens_total"]
    assert recorder.values.get(("vllm_prompt_tokens_total",), 0) == prompts


def test_rays_own_counters_take_the_names_and_the_tags() -> None:
    rays = RayMetrics(model_name="sotu", counter=ray_serve.Counter, gauge=ray_serve.Gauge)
    rays.stepped(step())
    rays.ended(Request(prompt=(1,), max_tokens=5, budget=Budget(e2e_ms=5)), Progress(arrived_s=0.0), None)
