"""A step that a device is at, or will be at once it has done the one before, and what comes of it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from lts_ray.decoding.sampling import BROKEN_LOGITS
from lts_ray.errors import LtsRayError
from lts_ray.pick import ChosenToken
from lts_ray.runtime.runtime import BegunStep
from serve.engine.response import Admitted
from serve.engine.step import Step


@dataclass(slots=True, eq=False)
class Flight:
    step: Step
    begun: BegunStep
    newcomers: Mapping[int, Admitted]
    """Requests whose first step it is."""
    starts_s: float
    """By the engine's clock. While the one before has not ended: when it is expected to."""

    @property
    def ends_s(self) -> float:
        """When it is expected to."""
        return self.starts_s + self.step.predicted_ms / 1e3

    @property
    def admitted(self) -> dict[int, Admitted]:
        """The newcomers, as it was when the step started."""
        return {id: replace(event, at_s=self.starts_s) for id, event in self.newcomers.items()}

    def chosen(self, there: Container[int]) -> tuple[dict[int, ChosenToken], dict[int, Exception]]:
        """Wait for its tokens. As `sample_rows`, of the requests that are still there."""
        chosen: dict[int, ChosenToken] = {}
        broken: dict[int, Exception] = {}
        for part, choice in zip(self.step.wanting, self.begun.chosen(), strict=True):
            if part.id in there:
                if choice.token < 0:
                    broken[part.id] = LtsRayError(BROKEN_LOGITS)
                else:
                    chosen[part.id] = choice
        return chosen, broken
