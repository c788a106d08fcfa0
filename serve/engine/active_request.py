"""A request while the engine works on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lts_ray.decoding.sampler import Sampler
from lts_ray.seeds import seeded_generator
from serve.engine.response import FinishReason, LeaveReason, Progress, Response
from serve.policies.request import Request, Resumed

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, slots=True)
class ActiveRequest:
    id: int
    request: Request
    response: Response
    progress: Progress
    """As the engine's thread knows it; the response has its own, which follows what its reader takes."""
    sampler: Sampler
    stops: frozenset[int]
    """Tokens that end it."""
    greedy: bool
    """Whether its sampler only takes the largest logit."""
    left: int
    """Tokens that it may still get."""

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
        resumed: Resumed,
    ) -> ActiveRequest:
        """To be called on the event loop that reads the response."""
        generator = torch.Generator() if request.seed is None else seeded_generator(request.seed)
        if request.seed is None:
            generator.seed()
        stops: frozenset[int] = frozenset() if request.ignore_eos else eos_ids
        sampler = Sampler(
            request.sampling,
            generator=generator,
            prompt=request.prompt,
            stop_ids=stops,
            top_logprobs=request.top_logprobs,
            produced=resumed.tokens,
        )
        before = len(resumed.tokens)
        response = Response(arrived_s=arrived_s, cancel=cancel, whole=request.whole)
        response.progress = Progress(arrived_s=arrived_s, before=before, first_s=resumed.first_s)
        return cls(
            id=id,
            request=request,
            response=response,
            progress=Progress(arrived_s=arrived_s, before=before, first_s=resumed.first_s),
            sampler=sampler,
            stops=stops,
            greedy=sampler.is_argmax,
            left=request.max_tokens - before,
        )

    def over(self, resumed: Resumed) -> FinishReason | None:
        """How it has ended with what it got elsewhere, if it has."""
        if resumed.tokens and resumed.tokens[-1] in self.stops:
            return "stop"
        return "length" if self.left <= 0 else None

    def log_end(self, reason: FinishReason | None) -> None:
        """At debug level: the access log has it otherwise. reason: None for a request that failed."""
        predicted, measured = self.progress.predicted, self.progress.measured()
        logger.debug(
            "request %s: %s after %d + %d tokens at %s, predicted %s ms, actual %s ms, budget %s ms",
            self.request.label,
            reason or "failed",
            len(self.request.prompt),
            self.progress.tokens,
            dict(self.progress.submodels),
            predicted and predicted.likely.to_json(),
            measured and measured.to_json(),
            self.request.budget.items() or None,
        )
