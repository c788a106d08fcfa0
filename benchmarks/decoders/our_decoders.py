"""Our own ways to decode: the bare runtime, and the whole engine, requests in and tokens out, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from benchmarks.decoders.decode_times import ENGINE, RUNTIME, Decode, Decoder, DecodeWork, Prompts, Way, mean_nats
from benchmarks.load.local_model import running
from lts_ray.precision import WEIGHT_BYTES
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.submodel import Submodel
from serve.engine.blocks import blocks_needed
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer
from serve.engine.response import Response
from serve.policies.capacity import Capacity
from serve.policies.menu import Option, menu_of_granularities
from serve.policies.named_policies import policy_named
from serve.policies.request import Request


def bare_runtime(runtime: Runtime, submodel: Submodel) -> Decode:
    """The runtime in a loop of its own: what an engine around it can reach at most."""

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        responses: list[list[int]] = [[] for _ in prompts]
        held = blocks_needed(max(map(len, prompts)) + new_tokens)
        blocks = [range(held * row, held * (row + 1)) for row in range(len(prompts))]
        pieces: Sequence[Sequence[int]] = prompts
        starts = [0] * len(prompts)
        for _ in range(new_tokens):
            segments = [
                Segment(
                    tokens=piece,
                    start=start,
                    blocks=row[: blocks_needed(start + len(piece))],
                    submodel=submodel,
                    wants_logits=True,
                )
                for piece, start, row in zip(pieces, starts, blocks, strict=True)
            ]
            chosen: list[int] = runtime.run(segments).argmax(-1).tolist()
            starts = [segment.stop for segment in segments]
            pieces = [[token] for token in chosen]
            for response, token in zip(responses, chosen, strict=True):
                response.append(token)
        return responses

    return decode


def loss_of(runtime: Runtime, submodel: Submodel, windows: Tensor) -> float:
    """Token by token, all windows as the rows of a step: as they are decoded, and rounded where that is."""
    held = blocks_needed(windows.shape[1])

    def steps() -> Iterator[tuple[Tensor, Tensor]]:
        for place, tokens in enumerate(windows[:, :-1].T.tolist()):
            segments = [
                Segment(
                    tokens=[token],
                    start=place,
                    blocks=range(held * row, held * row + blocks_needed(place + 1)),
                    submodel=submodel,
                    wants_logits=True,
                )
                for row, token in enumerate(tokens)
            ]
            yield runtime.run(segments), windows[:, place + 1]

    return mean_nats(steps())


@contextmanager
def open_ours(
    runtime: Runtime, costs: StepCosts, work: DecodeWork, *, observer: Observer
) -> Iterator[dict[Way, Decoder]]:
    """The runtime and an engine with each submodel in each precision. observer: of the engine's steps.

    The engine reads prompts whole and in one step, as the other ways do, and finds none in its cache.
    """
    config, batch = runtime.config, max(work.batches)
    engine = Engine(
        runtime,
        menu=menu_of_granularities(config, {}, precisions=runtime.precisions),
        times=LearnedTimes(costs),
        policy=policy_named("fixed"),
        eos_ids=frozenset(),
        capacity=Capacity(slots=batch, max_queue=batch, chunk_tokens=work.step_tokens + batch),
        prefix_cache=False,
        observers=[observer],
    )

    async def read(response: Response) -> list[int]:
        return [token.id async for tokens in response for token in tokens]

    async def batched(option: Option, prompts: Prompts, new_tokens: int) -> list[list[int]]:
        with engine.hold:  # so that a busy machine does not begin with the first one alone
            responses = [
                engine.submit(Request(prompt=tuple(prompt), max_tokens=new_tokens, pinned=option, ignore_eos=True))
                for prompt in prompts
            ]
        return list(await asyncio.gather(*map(read, responses)))

    def of_engine(name: str, submodel: Submodel) -> Decode:
        option = Option.of(config, submodel, name=name, loss=0.0)
        return lambda prompts, new_tokens: asyncio.run(batched(option, prompts, new_tokens))

    ways: dict[Way, Decoder] = {}
    for precision in work.precisions:
        for name in work.submodels:
            submodel = config.submodel(f"{name}@{precision}")
            decodes = {RUNTIME: bare_runtime(runtime, submodel), ENGINE: of_engine(name, submodel)}
            for ours, decode in decodes.items():
                loss = partial(loss_of, runtime, submodel)
                ways[Way(ours, name, precision)] = Decoder(
                    decode=decode,
                    loss=loss,
                    weight_bytes=WEIGHT_BYTES[precision],
                    head_bytes=WEIGHT_BYTES["int8"] if precision == "int4" else None,
                )
    with running(engine):
        yield ways
