"""The reference of one node: a small fixed model, timed between all blocks of all candidates in both regimes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lts_ray.errors import LtsRayError
from lts_ray.measurement.latency import Latency
from lts_ray.measurement.steps import Regime, step_of
from lts_ray.measurement.subjects.encoder_subject import has_steps
from lts_ray.measurement.subjects.subject import Subject
from lts_ray.measurement.timed_blocks import Yardstick, time_step
from lts_ray.target import Target
from lts_ray.timing import torch_threads, waiter


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Its yardsticks keep their baselines from one candidate to the next."""

    target: Target
    prefill: Yardstick
    decode: Yardstick | None
    """None of an encoder's."""

    @classmethod
    def of(cls, subject: Subject, target: Target) -> Reference:
        """Takes the baselines, about a second: nothing else should run on the node meanwhile."""
        wait, can_decode = waiter(subject.device), has_steps(subject)
        with torch_threads(target.threads), torch.inference_mode():
            return cls(
                target=target,
                prefill=Yardstick(step_of("prefill", subject, target), wait=wait),
                decode=Yardstick(step_of("decode", subject, target), wait=wait) if can_decode else None,
            )

    def latency(self, regime: Regime, subject: Subject, *, seconds: float = 1.0) -> Latency:
        """Time a candidate beside this reference, on its target. Raises LtsRayError for an encoder's decode step."""
        target, yardstick = self.target, self.prefill if regime == "prefill" else self.decode
        if yardstick is None:
            raise LtsRayError("an encoder has no decode step: measure its prefill, which is its pass over a sequence")
        with torch_threads(target.threads), torch.inference_mode():
            return time_step(
                step_of(regime, subject, target),
                yardstick,
                regime=regime,
                threads=target.threads,
                seconds=seconds,
                wait=waiter(subject.device),
            )
