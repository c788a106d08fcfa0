"""A request as the engine gets it, and the same request while the engine works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lts_ray.decoding.sampler import Sampler
from lts_ray.decoding.sampling import GREEDY, Sampling
from serve.engine.response import LeaveReason, Progress, Response
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.menu import Option
from serve.policies.policy import Job


@dataclass(frozen=True, kw_only=True)
class Request:
    """pinned: the submodel that the client names, never changed. strict: refuse it rather than miss its budget.

    ignore_eos: go on to max_tokens whatever the model says. top_logprobs: how many of the most likely tokens come with
    each; 0: the log probability of the token itself; None: none at all.
    label: what the log calls it; the engine tells requests apart by ids of its own.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY
    seed: int | None = None
    budget: Budget = NO_BUDGET
    pinned: Option | None = None
    strict: bool = False
    ignore_eos: bool = False
    top_logprobs: int | None = None
    label: str = "-"

    def job(self, id: int, *, arrived_s: float) -> Job:
        """Itself as policies see it when it comes."""
        return Job(
            id=id,
            arrived_ms=arrived_s * 1e3,
            budget=self.budget,
            prompt_tokens=len(self.prompt),
            max_tokens=self.max_tokens,
            pinned=self.pinned,
        )


@dataclass(kw_only=True, eq=False, slots=True)
class Active:
    """progress: as the engine knows it; the response's own follows what its reader takes.

    stops: tokens that end it. greedy: whether its sampler only takes the largest logit. left: tokens it may still get.
    """

    id: int
    request: Request
    response: Response
    progress: Progress
    sampler: Sampler
    stops: frozenset[int]
    greedy: bool
    left: int

    @property
    def begun(self) -> bool:
        """Whether its first step has run."""
        return self.progress.submodel is not None

    @classmethod
    def of(
        cls,
        request: Request,
        *,
        id: int,
        arrived_s: float,
        eos_ids: frozenset[int],
        cancel: Callable[[LeaveReason], None],
    ) -> Active:
        """To be called on the event loop that reads the response."""
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        stops: frozenset[int] = frozenset() if request.ignore_eos else eos_ids
        sampler = Sampler(
            request.sampling,
            generator=generator,
            prompt=request.prompt,
            stop_ids=stops,
            top_logprobs=request.top_logprobs,
        )
        return cls(
            id=id,
            request=request,
            response=Response(arrived_s=arrived_s, cancel=cancel),
            progress=Progress(arrived_s=arrived_s),
            sampler=sampler,
            stops=stops,
            greedy=sampler.is_argmax,
            left=request.max_tokens,
        )
