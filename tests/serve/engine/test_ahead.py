"""An engine whose runtime chooses tokens plans and begins a step while the one before runs: nothing else changes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from torch import Tensor

from lts_ray.decoding.sampling import BROKEN_LOGITS, Sampling
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.pick import ChosenToken, Pick
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from serve.engine.engine import Engine
from serve.engine.engine_errors import EngineFailedError
from serve.engine.response import FinishReason, LeaveReason, Response, Token
from serve.engine.step import Part, groups_of
from serve.policies.budget import Budget
from serve.policies.named_policies import policy_named
from serve.policies.policy import Job
from serve.policies.request import Request
from tests.serve.engine.choosing_runtime import ChoosingTorchRuntime
from tests.serve.models import CONFIG, COSTS, Notes, alone, collect, tiny_engine, tiny_menu, tiny_model, tiny_runtime

MENU = tiny_menu()
NAMES = list(CONFIG.trained)
Got = tuple[list[Token], FinishReason | str | None]


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


def requests_of_all_kinds(n: int, *, edits: bool = False, ends: bool = True) -> list[Request]:
    draw = random.Random(3)
    samplings = [
        Sampling(),
        Sampling(temperature=0.9),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.2, top_k=9, min_p=0.05),
        Sampling(frequency_penalty=0.5, temperature=0.8) if edits else Sampling(),
        Sampling(min_tokens=9) if edits else Sampling(),
        Sampling(logit_bias={7: 4.0}) if edits else Sampling(),
    ]
    beginning = tuple(range(1, 35))
    return [
        Request(
            prompt=(*beginning[: draw.choice((0, 0, 16, 34))], *(draw.randrange(1, 300) for _ in range(1 + index % 5))),
            max_tokens=draw.randrange(4, 24),
            pinned=MENU.named[NAMES[index % 4]] if index % 3 else None,
            sampling=samplings[index % len(samplings)],
            seed=index,
            top_logprobs=(None, None, 0, 3)[index % 4],
            ignore_eos=not ends,
        )
        for index in range(n)
    ]


async def read(response: Response) -> Got:
    tokens: list[Token] = []
    try:
        async for some in response:
            tokens += some
    except EngineFailedError as error:
        return tokens, str(error)
    return tokens, response.finish_reason


def drive(
    engine: Engine,
    requests: Sequence[Request],
    at: Mapping[int, Callable[[list[Response]], object]] | None = None,
) -> list[Got]:
    """The engine's loop without its thread. at: what happens at a boundary, counted from 0; responses go with it."""

    async def main() -> list[Got]:
        responses = [engine.submit(request) for request in requests]
        boundary = 0
        with torch.inference_mode():
            while engine._active or engine._flight is not None:
                if at is not None and boundary in at:
                    at[boundary](responses)
                assert engine._awake()
                engine._step()
                boundary += 1
                assert boundary < 2000
                await asyncio.sleep(0)
        assert engine._scheduler.kv_usage == 0
        return await asyncio.gather(*map(read, responses))

    return asyncio.run(main())


def same(some: Sequence[Got], others: Sequence[Got]) -> None:
    for (ours, our_end), (theirs, their_end) in zip(some, others, strict=True):
        assert [(token.id, token.submodel) for token in ours] == [(token.id, token.submodel) for token in theirs]
        assert our_end == their_end
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_the_device_has_the_next_step_before_tokens_are_asked_for(model: MatFormer) -> None:
    runtime = ChoosingTorchRuntime(tiny_runtime(model))
    request = Request(prompt=(1, 2, 3, 4, 5, 6), max_tokens=3, ignore_eos=True)
    drive(tiny_engine(runtime, chunk_tokens=4), [request])
    assert runtime.events == [
        ("begin", 1),
        ("begin", 2),
        ("chosen", 1),
        ("begin", 3),
        ("chosen", 2),
        ("begin", 4),
        ("chosen", 3),
        ("chosen", 4),  # it is known to be the last one
    ]


ENDS = frozenset(range(0, 300, 20))


@pytest.mark.parametrize(
    ("settings", "edits"), [({"slots": 1}, False), ({"chunk_tokens": 5}, True)], ids=["one by one", "pieces"]
)
def test_all_get_what_an_engine_gives_that_waits_for_each_step(
    model: MatFormer, settings: dict[str, int], edits: bool
) -> None:
    requests, runtime = requests_of_all_kinds(8, edits=edits), ChoosingTorchRuntime(tiny_runtime(model))
    expected = drive(tiny_engine(tiny_runtime(model), eos_ids=ENDS, **settings), requests)
    found = drive(tiny_engine(runtime, eos_ids=ENDS, **settings), requests)
    same(found, expected)
    assert {"stop", "length"} == {end for _, end in found}
    assert {what for what, _ in runtime.events} == {"begin", "chosen", *(["run"] if edits else [])}


@pytest.mark.parametrize("edits", [False, True])
def test_where_all_get_max_tokens_the_steps_are_the_same_too(model: MatFormer, edits: bool) -> None:
    """Who makes room, what the prefix cache has, and which prompts are read beside which responses."""
    settings = {"slots": 3, "chunk_tokens": 16}
    requests = [
        replace(each, max_tokens=each.max_tokens + 12) for each in requests_of_all_kinds(7, edits=edits, ends=False)
    ]
    ours, theirs = Notes(), Notes()
    expected = drive(tiny_engine(tiny_runtime(model, 6), observers=[theirs], **settings), requests)
    runtime = ChoosingTorchRuntime(tiny_runtime(model, 6))
    same(drive(tiny_engine(runtime, observers=[ours], **settings), requests), expected)
    steps, same_steps = (
        [(step.decoded, step.prompt_tokens, step.reused_tokens, step.switches, step.preempted) for step in notes.steps]
        for notes in (ours, theirs)
    )
    assert steps == same_steps
    assert sum(step.preempted for step in ours.steps) > 0 < sum(step.reused_tokens for step in ours.steps)
    assert runtime.steps > 0


GREEDY = Request(prompt=(5, 6, 7), max_tokens=9, ignore_eos=True)


def test_the_end_of_text_may_come_at_every_place(model: MatFormer) -> None:
    """What the device has begun for a response that has ended is nobody's; its neighbours get all of theirs."""
    other = replace(GREEDY, prompt=(8, 9), max_tokens=12)
    whole, beside = alone(model, GREEDY, eos_ids=()), alone(model, other, eos_ids=())
    for place, end in enumerate(whole):
        notes = Notes()
        runtime = ChoosingTorchRuntime(tiny_runtime(model, 5))
        engine = tiny_engine(runtime, eos_ids=frozenset({end}), slots=2, observers=[notes])
        requests = [replace(GREEDY, ignore_eos=False), other, replace(GREEDY, ignore_eos=False)]
        first, second, third = drive(engine, requests)
        expected = whole[: whole.index(end)]
        assert [[token.id for token in tokens] for tokens, _ in (first, second, third)] == [expected, beside, expected]
        assert (first[1], second[1], third[1]) == ("stop", "length", "stop"), place
        assert {reason for _, _, reason in notes.ends} == {"stop", "length"}
        assert len(notes.steps) == runtime.steps


def test_who_leaves_at_any_boundary_frees_the_place_and_disturbs_nobody(model: MatFormer) -> None:
    requests = [replace(GREEDY, prompt=(*range(1, 30), index), max_tokens=6) for index in range(3)]
    expected = [alone(model, request, eos_ids=()) for request in requests]
    reasons: list[LeaveReason] = ["cancelled", "stop", "failed"]
    for boundary in range(12):
        reason = reasons[boundary % 3]
        engine = tiny_engine(ChoosingTorchRuntime(tiny_runtime(model, 6)), slots=2, chunk_tokens=16)
        (left, end), *others = drive(engine, requests, {boundary: lambda given: given[0].cancel(reason)})  # noqa: B023
        tokens = [token.id for token in left]
        assert tokens == expected[0][: len(tokens)]
        assert end in ("length", reason) or "could not be written" in str(end)
        assert [([token.id for token in each], why) for each, why in others] == [
            (each, "length") for each in expected[1:]
        ]


def test_a_response_counts_until_its_last_token_is_there(model: MatFormer) -> None:
    engine, counts = tiny_engine(ChoosingTorchRuntime(tiny_runtime(model))), []
    drive(
        engine,
        [replace(GREEDY, max_tokens=2)],
        {boundary: lambda _: counts.append(engine.counts()) for boundary in range(4)},
    )
    assert counts == [(0, 1), (1, 0), (1, 0)]  # begun, begun, and the last one over


@pytest.mark.parametrize("step", [1, 2, 9])
@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_a_step_that_fails_takes_along_its_requests_and_what_was_begun_upon_it(
    model: MatFormer, when: str, step: int
) -> None:
    """Two run, two wait: these get all their tokens, of which nothing is read that the failed step was to write."""
    runtime = ChoosingTorchRuntime(
        tiny_runtime(model, 16), **{when: lambda n: RuntimeError("out of\nmemory") if n == step else None}
    )
    requests = [replace(GREEDY, prompt=(*range(1, 40), index // 2), max_tokens=20) for index in range(4)]
    notes = Notes()
    engine = tiny_engine(runtime, slots=2, observers=[notes])
    results = drive(engine, requests)
    engine.check()
    whole = [alone(model, request, eos_ids=()) for request in requests]
    for (tokens, end), expected in zip(results[:2], whole, strict=False):
        assert end == "the step failed: RuntimeError: out of"
        assert [token.id for token in tokens] == expected[: step - 1]
    assert [[token.id for token in tokens] for tokens, _ in results[2:]] == whole[2:]
    assert sum(record.reused_tokens for record in notes.steps) == (64 if when == "refuses" and step > 1 else 0)


def test_who_joins_in_the_step_after_the_one_that_fails_fails_too(model: MatFormer) -> None:
    runtime = ChoosingTorchRuntime(tiny_runtime(model), fails=lambda n: RuntimeError("lost") if n == 1 else None)
    found = drive(tiny_engine(runtime, chunk_tokens=4), [replace(GREEDY, prompt=(each,) * 4) for each in (1, 2, 3)])
    assert [end for _, end in found] == ["the step failed: RuntimeError: lost"] * 2 + ["length"]


def test_a_block_that_the_last_step_fills_is_there_for_who_goes_on_with_the_text(model: MatFormer) -> None:
    notes = Notes()
    engine = tiny_engine(ChoosingTorchRuntime(tiny_runtime(model)), observers=[notes])
    first = replace(GREEDY, prompt=tuple(range(1, BLOCK_TOKENS - 1)), max_tokens=3)
    [(tokens, _)] = drive(engine, [first])
    following = replace(GREEDY, prompt=(*first.prompt, *(token.id for token in tokens)))
    [(tokens, _)] = drive(engine, [following])
    assert [token.id for token in tokens] == alone(model, following, eos_ids=())
    assert sum(record.reused_tokens for record in notes.steps) == BLOCK_TOKENS


def test_an_engine_whose_steps_keep_failing_says_so(model: MatFormer) -> None:
    runtime = ChoosingTorchRuntime(tiny_runtime(model), fails=lambda n: RuntimeError("lost"))
    engine = tiny_engine(runtime)
    for n in range(3):
        engine.check()
        [(tokens, end)] = drive(engine, [GREEDY])
        assert (tokens, end) == ([], "the step failed: RuntimeError: lost"), n
    with pytest.raises(EngineFailedError, match="last 3 steps failed"):
        engine.check()


@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_an_engine_whose_gpu_is_lost_says_so_at_once(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also to those who wait; what was begun is not asked for."""
    lost = RuntimeError("CUDA error: unspecified launch failure\nCompile with")
    runtime = ChoosingTorchRuntime(tiny_runtime(model), **{when: lambda n: lost if n >= 3 else None})
    runtime.device = torch.device("cuda", 0)

    def synchronize(device: torch.device) -> None:
        raise lost

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    engine = tiny_engine(runtime, slots=2)

    async def main() -> list[Got]:
        responses = [engine.submit(replace(GREEDY, prompt=(each,))) for each in (1, 2, 3)]
        engine.start()
        return await asyncio.gather(*map(read, responses))

    *there, waiting = asyncio.run(main())
    assert [(len(tokens), end) for tokens, end in there] == [
        (2, "the step failed: RuntimeError: CUDA error: unspecified launch failure")
    ] * 2
    assert waiting == ([], "the GPU is lost: CUDA error: unspecified launch failure; see the server's log")
    assert runtime.steps == (2 if when == "refuses" else 4)
    with pytest.raises(EngineFailedError, match="the GPU is lost: CUDA error"):
        engine.check()
    engine.stop()


def test_a_request_whose_logits_are_no_numbers_fails_alone(model: MatFormer) -> None:
    def spoil(step: int, logits: Tensor) -> None:
        if step == 3:
            logits[0] = torch.nan

    others = [replace(GREEDY, prompt=(index,)) for index in (1, 2)]
    (tokens, end), *rest = drive(tiny_engine(ChoosingTorchRuntime(tiny_runtime(model), spoil=spoil)), [GREEDY, *others])
    assert end == f"choosing a token failed: LtsRayError: {BROKEN_LOGITS}"
    assert [token.id for token in tokens] == alone(model, GREEDY, eos_ids=())[:2]
    assert [[token.id for token in each] for each, _ in rest] == [alone(model, each, eos_ids=()) for each in others]


def test_in_threads_of_their_own_engine_and_device_do_the_same_and_can_be_stopped(model: MatFormer) -> None:
    requests = [replace(GREEDY, prompt=(index, 3), max_tokens=20) for index in range(1, 7)]
    held, goes = threading.Event(), threading.Event()

    def waits(step: int) -> None:
        if held.is_set():
            goes.wait()

    runtime = ChoosingTorchRuntime(tiny_runtime(model, 8), in_thread=True, fails=waits)
    engine = tiny_engine(runtime)

    async def main() -> None:
        engine.start()
        found = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
        assert found == [alone(model, request, eos_ids=()) for request in requests]
        held.set()
        before = runtime.steps
        responses = [engine.submit(replace(GREEDY, max_tokens=90)) for _ in range(6)]
        while runtime.steps < before + 2:
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        while engine._health.refusal is None:
            await asyncio.sleep(0.001)
        goes.set()
        await stopping
        for response in responses:
            with pytest.raises(EngineFailedError, match="shutting down"):
                await collect(response)

    asyncio.run(main())
    assert not runtime.waiting, "the runtime is at rest when the engine has stopped"


@dataclass
class TimedRuntime:
    """No model: tokens are 0, and steps take what they cost, to the clock. ahead: it is at a step while time stands."""

    now_s: float = 0.0
    free_s: float = 0.0
    config: MatFormerConfig = CONFIG
    n_blocks: int = 12
    slowness: float = 1.0

    def cost_s(self, segments: Sequence[Segment]) -> float:
        options = {option.submodel: option for option in MENU.named.values()}
        groups = groups_of([Part(0, each, options[each.submodel]) for each in segments])
        return COSTS.step_ms(groups) / 1e3 * self.slowness

    def run(self, segments: Sequence[Segment]) -> Tensor:
        self.now_s += self.cost_s(segments)
        return torch.zeros(sum(segment.wants_logits for segment in segments), CONFIG.vocab_size)


@dataclass
class TimedDevice(TimedRuntime):
    def begin(self, segments: Sequence[Segment], picks: Sequence[Pick]) -> TimedStep:
        self.free_s = max(self.free_s, self.now_s) + self.cost_s(segments)
        return TimedStep(self, self.free_s, len(picks))


@dataclass
class TimedStep:
    device: TimedDevice
    ends_s: float
    tokens: int

    def chosen(self) -> list[ChosenToken]:
        self.device.now_s = max(self.device.now_s, self.ends_s)
        return [ChosenToken(0)] * self.tokens


def test_budgets_get_the_widths_the_times_and_the_predictions_that_waiting_for_each_step_gives() -> None:
    """Planning is for the moment when the step before will be over, and each step has its own time."""
    draw, judged = random.Random(1), list[tuple[float, float]]()
    requests = [
        Request(
            prompt=tuple(draw.randrange(300) for _ in range(draw.randrange(1, 40))),
            max_tokens=draw.randrange(2, 30),
            budget=Budget(e2e_ms=draw.uniform(200, 3000), ttft_ms=draw.choice((None, 300.0))),
            ignore_eos=True,
        )
        for _ in range(10)
    ]
    outcomes = []
    for runtime in (TimedRuntime(), TimedDevice()):
        notes = Notes()
        engine = tiny_engine(
            runtime,  # type: ignore[arg-type]
            policy=policy_named("deadline"),
            clock=lambda: runtime.now_s,  # noqa: B023
            attainment=None,
            slots=3,
            chunk_tokens=24,
            observers=[notes],
        )

        def look(_: object) -> None:
            judged.append((engine.situation(runtime.now_s).now_ms, max(runtime.now_s, runtime.free_s) * 1e3))  # noqa: B023

        drive(engine, requests, dict.fromkeys(range(1000), look))
        ends = [progress for _, progress, _ in notes.ends]
        outcomes.append((notes.steps, ends))
    assert all(now_ms == pytest.approx(free_ms) for now_ms, free_ms in judged), "new ones come after what was begun"
    (theirs, their_ends), (ours, our_ends) = outcomes
    assert len({name for progress in their_ends for name in progress.submodels}) > 1
    assert [progress.submodels for progress in our_ends] == [progress.submodels for progress in their_ends]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.decoded, one.prompt_tokens, one.preempted) == (other.decoded, other.prompt_tokens, other.preempted)
        assert (one.at_s, one.actual_ms) == pytest.approx((other.at_s, other.actual_ms))
    for mine, its in zip(our_ends, their_ends, strict=True):
        assert (mine.admitted_s, mine.first_s, mine.last_s) == pytest.approx((its.admitted_s, its.first_s, its.last_s))
        assert mine.predicted is not None
        assert its.predicted is not None
        assert mine.predicted.waited_ms == pytest.approx(its.predicted.waited_ms)
        assert asdict(mine.predicted.forecast) == pytest.approx(asdict(its.predicted.forecast))


def test_what_took_longer_than_expected_is_known_as_it_was() -> None:
    """The second request joins in the second step, which starts when the first one has really ended."""
    runtime, notes, jobs = TimedDevice(slowness=2.0), Notes(), list[Job]()
    clock = {"clock": lambda: runtime.now_s, "attainment": None}
    engine = tiny_engine(runtime, chunk_tokens=4, observers=[notes], **clock)  # type: ignore[arg-type]
    requests = [replace(GREEDY, prompt=(each,) * 4, max_tokens=6) for each in (1, 2)]
    drive(engine, requests, {6: lambda _: jobs.extend(engine.situation(0.0).running)})
    first, second = (progress for _, progress, _ in notes.ends)
    assert second.admitted_s == first.first_s == notes.steps[0].at_s
    assert [job.first_ms for job in jobs] == [first.first_s * 1e3, second.first_s * 1e3]
    for record in notes.steps:
        assert record.actual_ms == pytest.approx(2 * record.predicted_ms)
