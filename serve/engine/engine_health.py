"""Whether an engine works, and why not."""

from __future__ import annotations

import torch

from lts_ray.device import lost_gpu
from serve.engine.engine_errors import EngineFailedError

MAX_FAILED_STEPS = 3
"""After so many failed steps in a row the engine is unhealthy; Ray Serve, which watches it, starts a new one."""


class EngineHealth:
    def __init__(self) -> None:
        self.refusal: str | None = None
        """Why it takes no requests any more."""
        self.failed_steps = 0
        """In a row, the last ones."""

    def end(self, why: str) -> str:
        """It takes no requests from now on. Returns why: what was said first."""
        self.refusal = self.refusal or why
        return self.refusal

    def step_failed(self, device: torch.device) -> None:
        """device: on which, and which may do nothing more from now on."""
        self.failed_steps += 1
        if (why := lost_gpu(device)) is not None:
            self.end(f"the GPU is lost: {why}; see the server's log")

    def check(self) -> None:
        """Raise EngineFailedError unless it works."""
        if self.refusal is not None:
            raise EngineFailedError(self.refusal)
        if self.failed_steps >= MAX_FAILED_STEPS:
            raise EngineFailedError(f"the engine's last {self.failed_steps} steps failed; see the server's log")
