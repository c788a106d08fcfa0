"""Runtimes that choose tokens, as a device does, made of one that gives logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lts_ray.decoding.sampler import _with_logprobs
from lts_ray.decoding.sampling import Sampling, pick_token
from lts_ray.pick import ChosenToken, Pick
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment

Fails = Callable[[int], BaseException | None]
"""What a step raises, counted from 1."""


def never(step: int) -> None:
    return None


def choose(logits: Tensor, pick: Pick) -> ChosenToken:
    """logits: [vocab_size]."""
    if not logits.isfinite().all():
        return ChosenToken(-1)
    cut = Sampling(temperature=pick.temperature, top_k=pick.top_k, top_p=pick.top_p, min_p=pick.min_p)
    token = pick_token(logits, cut, lambda: pick.draw)
    return ChosenToken(token) if pick.logprobs is None else _with_logprobs(token, logits, pick.logprobs)


class ChoosingTorchRuntime:
    """Computes a step when its tokens are asked for, those before it first; or in a thread of its own.

    What must hold of a device's steps is asserted: they follow each other, and logits are only asked for between them.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        in_thread: bool = False,
        refuses: Fails = never,
        fails: Fails = never,
        spoil: Callable[[int, Tensor], None] = lambda step, logits: None,
    ) -> None:
        """refuses, fails: at the beginning, and when the tokens are asked for. spoil: may change a step's logits."""
        self.runtime, self.refuses, self.fails, self.spoil = runtime, refuses, fails, spoil
        self.thread = ThreadPoolExecutor(1) if in_thread else None
        self.tried, self.events = 0, list[tuple[str, int]]()
        self.begun: list[ChoosingStep] = []
        """Those that are not computed yet."""
        self.last: list[ChosenToken] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    @property
    def steps(self) -> int:
        return sum(what == "begin" for what, _ in self.events)

    @property
    def waiting(self) -> int:
        """Steps whose tokens were not asked for."""
        return self.steps - sum(what == "chosen" for what, _ in self.events)

    def run(self, segments: Sequence[Segment]) -> Tensor:
        assert not self.waiting, "a step is not over"
        self.events.append(("run", self.steps))
        assert all(token >= 0 for segment in segments for token in segment.tokens)
        return self.runtime.run(segments)

    def begin(self, segments: Sequence[Segment], picks: Sequence[Pick]) -> ChoosingStep:
        assert len(picks) == sum(segment.wants_logits for segment in segments)
        self.tried += 1
        if (error := self.refuses(self.tried)) is not None:
            raise error
        self.events.append(("begin", self.steps + 1))
        step = ChoosingStep(self, self.steps, segments, picks)
        self.begun.append(step)
        if self.thread is not None:
            step.computed = self.thread.submit(self.compute_to, step)
        return step

    def compute_to(self, step: ChoosingStep) -> None:
        while not step.tokens and self.begun:
            self.begun.pop(0).compute()


@dataclass(eq=False)
class ChoosingStep:
    runtime: ChoosingTorchRuntime
    number: int
    segments: Sequence[Segment]
    picks: Sequence[Pick]
    computed: Future[None] | None = None
    tokens: list[ChosenToken] | None = None

    def compute(self) -> None:
        before = self.runtime.last
        known = [
            replace(part, tokens=[token if token >= 0 else max(before[-1 - token].token, 0) for token in part.tokens])
            for part in self.segments
        ]
        logits = self.runtime.runtime.run(known).clone()
        self.runtime.spoil(self.number, logits)
        self.tokens = self.runtime.last = [choose(row, pick) for row, pick in zip(logits, self.picks, strict=True)]

    def chosen(self) -> Sequence[ChosenToken]:
        self.runtime.events.append(("chosen", self.number))
        if (error := self.runtime.fails(self.number)) is not None:
            raise error
        if self.computed is not None:
            self.computed.result()
        self.runtime.compute_to(self)
        assert self.tokens is not None
        return self.tokens
