"""Held-out text in two parts: one on which a search may choose, and one that reports and that no choice has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lts_ray.text.batches import Tokens, blocks_of

SELECTION_SHARE = 0.25
SELECTION_BLOCKS = 32


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """selection, report: [N, T + 1] and [M, T + 1], of different documents."""

    selection: Tensor
    report: Tensor


def held_out(tokens: Tokens, *, eos_id: int, length: int) -> HeldOut:
    """Cut the validation tokens where a document ends, as close as may be to a quarter.

    Raises LtsRayError where a part has not even one block.
    """
    wanted = SELECTION_SHARE * len(tokens)
    ends = np.flatnonzero(tokens == eos_id)[:-1] + 1  # the last document's end leaves nothing for the report
    cut = int(ends[np.argmin(np.abs(ends - wanted))]) if len(ends) else round(wanted)
    return HeldOut(
        selection=blocks_of(tokens[:cut], length=length, count=SELECTION_BLOCKS),
        report=blocks_of(tokens[cut:], length=length),
    )
