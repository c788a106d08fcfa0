"""The next tokens of a step's rows: those that only take the largest logit together, the others one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from lts_ray.pick import ChosenToken
from serve.engine.active_request import ActiveRequest

logger = logging.getLogger(__name__)


def sample_rows(
    actives: Sequence[ActiveRequest], logits: Tensor
) -> tuple[dict[int, ChosenToken], dict[int, Exception]]:
    """logits: [len(actives), vocab_size], on the CPU. By id: the tokens, and the errors where choosing one failed."""
    chosen: dict[int, ChosenToken] = {}
    broken: dict[int, Exception] = {}
    # numpy's argmax takes a twentieth of torch's time on a CPU, and gives the first of equals too.
    largest = logits.numpy().argmax(-1).tolist() if any(active.greedy for active in actives) else ()
    for row, active in enumerate(actives):
        if active.greedy:
            chosen[active.id] = ChosenToken(largest[row])
            continue
        try:
            chosen[active.id] = active.sampler.choose(logits[row])
        except Exception as error:
            logger.exception("request %s: choosing a token failed", active.request.label)
            broken[active.id] = error
    return chosen, broken
