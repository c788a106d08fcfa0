"""What became of a request that was sent over HTTP: by the client's clock, and by what the endpoint says itself."""

from __future__ import annotations

from dataclasses import dataclass, fields

from serve.policies.budget import Timing
from serve.simulate.request_outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class ServedOutcome(Outcome):
    reported: Timing | None = None
    """By the endpoint's clock, from its answer's `lts`."""
    interval: tuple[float, float] | None = None
    """Between which milliseconds the endpoint predicted the whole response; None: it does not say."""
    streamed: bool = True
    """Whole answers come in one piece: the client sees its first token with its last."""

    @classmethod
    def of(cls, outcome: Outcome) -> ServedOutcome:
        """Of one that was refused, which the endpoint says no more of."""
        return (
            outcome
            if isinstance(outcome, cls)
            else cls(**{field.name: getattr(outcome, field.name) for field in fields(outcome)})
        )

    @property
    def kept(self) -> bool:
        """Whether the budget held by the endpoint's clock."""
        return self.reported is not None and self.budget.holds(self.reported)

    @property
    def added_ttft_ms(self) -> float | None:
        """By how much later a stream's first token came to the client than the endpoint says."""
        if not self.streamed or self.reported is None or self.timing is None:
            return None
        return self.timing.ttft_ms - self.reported.ttft_ms

    @property
    def inside(self) -> bool | None:
        """Whether the response took as long as was predicted; None where nothing was, or it never ended."""
        if self.reported is None or self.interval is None:
            return None
        return self.interval[0] <= self.reported.e2e_ms <= self.interval[1]
