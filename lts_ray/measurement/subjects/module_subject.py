"""What every candidate says of itself that is a module of its own, and not a part of a larger one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


class ModuleSubject:
    """The base of frozen dataclasses that have `module`, with the size of its vocabulary."""

    module: nn.Module

    @property
    def ran_in(self) -> Literal["torch"]:
        return "torch"

    @property
    def vocab_size(self) -> int:
        size = self.module.vocab_size
        assert isinstance(size, int)
        return size

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def takes_tokens_on(self) -> torch.device:
        return self.device

    @property
    def kept_bytes(self) -> int:
        """Nothing: its caches are made anew for each generation."""
        return 0

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.module.parameters(), *self.module.buffers()))
