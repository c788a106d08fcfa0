"""What one engine has begun, another one ends: the client's tokens are those of one that was never disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from lts_ray.decoding.sampling import Sampling
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from serve.engine.engine import Engine
from serve.engine.response import FinishReason, Response, Token
from serve.metrics.ended_request import EndedRequest
from serve.policies.budget import Budget
from serve.policies.named_policies import policy_named
from serve.policies.request import Request, Resumed
from tests.serve.engine.choosing_runtime import ChoosingTorchRuntime
from tests.serve.models import Notes, collect, tiny_engine, tiny_menu, tiny_model, tiny_runtime

MENU = tiny_menu()
KINDS = {
    "greedy": Request(prompt=(5, 6, 7), max_tokens=30),
    "greedy to the end": Request(prompt=(9,) * 30, max_tokens=30, ignore_eos=True, pinned=MENU.named["M"]),
    "drawn": Request(prompt=(8,), max_tokens=30, sampling=Sampling(temperature=1.0), seed=3),
    "cut": Request(prompt=(8, 1), max_tokens=30, sampling=Sampling(temperature=0.7, top_p=0.9, top_k=9), seed=4),
    "coldest": Request(prompt=(8, 2), max_tokens=30, sampling=Sampling(temperature=1.0, top_p=0.0), seed=5),
    "min_p": Request(
        prompt=(8, 3), max_tokens=30, sampling=Sampling(temperature=1.5, min_p=0.1), seed=6, top_logprobs=3
    ),
    "penalties": Request(
        prompt=(4, 5),
        max_tokens=30,
        sampling=Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7),
        pinned=MENU.named["S"],
    ),
    "drawn with penalties": Request(
        prompt=(4, 6),
        max_tokens=30,
        sampling=Sampling(temperature=0.9, frequency_penalty=-0.4, repetition_penalty=1.1, logit_bias={7: 5.0}),
        seed=7,
        top_logprobs=0,
    ),
    "late end": Request(prompt=(5, 6, 7), max_tokens=30, sampling=Sampling(min_tokens=25), top_logprobs=2),
}
CUTS = (1, BLOCK_TOKENS - 2, 24, 29)
Whole = tuple[list[Token], FinishReason | None]


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@pytest.fixture(scope="module")
def eos_ids(model: MatFormer) -> frozenset[int]:
    """Tokens in the middle of what the first of the kinds gives, so that it stops."""
    [(tokens, _)] = run(tiny_engine(tiny_runtime(model), eos_ids=frozenset()), [(KINDS["greedy"], None)])
    return frozenset(token.id for token in tokens[20:22])


@pytest.fixture(scope="module")
def undisturbed(model: MatFormer, eos_ids: frozenset[int]) -> list[Whole]:
    """What one engine gives for all kinds."""
    ends = run(tiny_engine(tiny_runtime(model), eos_ids=eos_ids), [(request, None) for request in KINDS.values()])
    assert {reason for _, reason in ends} == {"stop", "length"}
    return ends


def run(engine: Engine, requests: Sequence[tuple[Request, Resumed | None]]) -> list[Whole]:
    async def read(response: Response) -> Whole:
        return [token async for tokens in response for token in tokens], response.finish_reason

    async def main() -> list[Whole]:
        responses = [engine.submit(request, arrived_s=0.0, resumed=resumed) for request, resumed in requests]
        engine.start()
        return await asyncio.gather(*map(read, responses))

    try:
        return asyncio.run(main())
    finally:
        engine.stop()


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


@pytest.mark.parametrize(
    ("runtime", "settings", "preempts"),
    [
        (tiny_runtime, {"prefix_cache": False, "slots": 2, "chunk_tokens": 5}, False),
        (lambda model: tiny_runtime(model, 5), {"slots": 8, "chunk_tokens": 16}, True),
        (lambda model: build_runtime(model, n_blocks=32, threads=1), {}, False),
        (lambda model: ChoosingTorchRuntime(tiny_runtime(model, 5)), {"slots": 8, "chunk_tokens": 16}, True),
    ],
    ids=["pieces", "few blocks", "fastest", "a step ahead"],
)
def test_a_response_goes_on_in_another_engine_as_if_nothing_had_been(
    model: MatFormer,
    eos_ids: frozenset[int],
    undisturbed: list[Whole],
    runtime: Callable[[MatFormer], Runtime],
    settings: dict[str, object],
    preempts: bool,
) -> None:
    """Wherever it is cut, whatever the sampling; all that were cut share the other engine's steps."""
    notes = Notes()
    cut = [
        (request, whole, len(whole[0]) if n is None else n)
        for n in (*CUTS, None)  # of different kinds beside each other, which share no blocks
        for request, whole in zip(KINDS.values(), undisturbed, strict=True)
        if n is None or n < len(whole[0])
    ]
    second = tiny_engine(runtime(model), eos_ids=eos_ids, max_queue=1, observers=[notes], **settings)
    resumed = [(request, Resumed(tokens=tuple(ids(tokens[:n])), first_s=0.0)) for request, (tokens, _), n in cut]
    for (request, (tokens, reason), n), (rest, end) in zip(cut, run(second, resumed), strict=True):
        assert (ids(rest), end) == (ids(tokens[n:]), reason), (request, n)
        for one, other in zip(rest, tokens[n:], strict=True):
            assert [token for token, _ in one.top] == [token for token, _ in other.top]
            assert (one.logprob is None) == (other.logprob is None) == (request.top_logprobs is None)
            assert one.logprob is None or one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert any(record.preempted for record in notes.steps) == preempts
    # What came before is nobody's again: each engine counts its own.
    assert sum(progress.tokens for _, progress, _ in notes.ends) == sum(len(tokens) - n for _, (tokens, _), n in cut)
    assert len(notes.ends) == len(cut)


def test_a_response_may_move_again_and_again(model: MatFormer) -> None:
    request = replace(KINDS["drawn with penalties"], ignore_eos=True)
    [(undisturbed, _)] = run(tiny_engine(tiny_runtime(model)), [(request, None)])
    got: tuple[int, ...] = ()
    while len(got) < request.max_tokens:
        [(rest, _)] = run(tiny_engine(tiny_runtime(model)), [(request, Resumed(tokens=got))])
        got += tuple(ids(rest[:11]))
    assert list(got) == ids(undisturbed)


@pytest.mark.parametrize("decodes_at_once", [False, True])
def test_the_budget_is_that_of_the_whole_response(model: MatFormer, decodes_at_once: bool) -> None:
    """It arrived at 0 and its first token came after 1 s; time stands still at 5 s. decodes_at_once: the engine has all
    but its last token in the prefix cache."""
    budget = Budget(ttft_ms=1500.0, tpot_ms=300.0, e2e_ms=6000.0)
    request, notes = Request(prompt=(1,) * 10, max_tokens=21, budget=budget, ignore_eos=True), Notes()
    engine = tiny_engine(tiny_runtime(model), policy=policy_named("deadline"), clock=lambda: 5.0, observers=[notes])
    tokens = tuple(range(20, 20 + BLOCK_TOKENS + 1 - 10))

    async def main() -> Response:
        engine.start()
        if decodes_at_once:
            await collect(engine.submit(Request(prompt=(*request.prompt, *tokens), max_tokens=2)))
        response = engine.submit(request, arrived_s=0.0, resumed=Resumed(tokens=tokens, first_s=1.0))
        await collect(response)
        return response

    try:
        progress = asyncio.run(main()).progress
    finally:
        engine.stop()
    assert progress.tokens == 21 - len(tokens)
    measured, predicted = progress.measured(), progress.predicted
    assert measured is not None
    assert predicted is not None
    assert (measured.ttft_ms, measured.tpot_ms, measured.e2e_ms) == (1000.0, 200.0, 5000.0)
    # Its first token is a fact; all else is still to come.
    assert (predicted.low.ttft_ms, predicted.likely.ttft_ms, predicted.high.ttft_ms) == (1000.0,) * 3
    assert predicted.likely.e2e_ms > 5000.0
    [ended] = [EndedRequest(*note) for note in notes.ends if note[0] is request]
    assert ended.attainment() == {"ttft": True, "tpot": True, "e2e": True, "all": True}
    assert (ended.ttft_s, ended.queue_s, ended.tpot_s, ended.e2e_s) == (None, None, 0.2, 5.0)
    assert sum(record.reused_tokens for record in notes.steps) == decodes_at_once * BLOCK_TOKENS


@pytest.mark.parametrize(("tokens", "reason"), [((5,) * 4, "length"), ((5,) * 6, "length"), ((5, 0), "stop")])
def test_what_has_all_its_tokens_ends_at_once(model: MatFormer, tokens: tuple[int, ...], reason: str) -> None:
    notes = Notes()
    engine = tiny_engine(tiny_runtime(model), observers=[notes])
    [(rest, end)] = run(engine, [(Request(prompt=(1, 2), max_tokens=4), Resumed(tokens=tokens, first_s=0.0))])
    assert (rest, end) == ([], reason)
    assert [(progress.tokens, why) for _, progress, why in notes.ends] == [(0, reason)]
    assert notes.steps == []


def test_what_was_taken_on_elsewhere_is_refused_neither_for_the_queue_nor_for_its_budget(model: MatFormer) -> None:
    """Nor does it wait behind those that have got nothing yet."""
    engine = tiny_engine(tiny_runtime(model), policy=policy_named("deadline"), max_queue=1, slots=1)
    strict = Request(prompt=(1, 2), max_tokens=4, budget=Budget(e2e_ms=0.1), strict=True, ignore_eos=True)
    requests: list[tuple[Request, Resumed | None]] = [
        (Request(prompt=(1, 2), max_tokens=4, ignore_eos=True), None),
        (strict, Resumed()),
        (strict, Resumed(tokens=(7, 8), first_s=0.0)),
    ]
    assert [len(tokens) for tokens, _ in run(engine, requests)] == [4, 4, 2]
