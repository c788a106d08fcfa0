"""How much of a draft stands: the rule that makes speculative decoding give what the verifier alone would give.

Greedy: a drafted token stands while it is the verifier's own. Sampling: a token drawn from q stands with probability
min(1, p / q), and the first that falls is replaced by a draw from what p has more than q. A token then comes out with
probability min(p, q) + max(p - q, 0) = p, the verifier's, whatever q is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.decoding.sampling import draw_index


@dataclass(frozen=True, kw_only=True)
class DraftVerdict:
    accepted: int
    """How many drafted tokens stand."""
    token: int
    """The verifier's own, which follows them."""


def accept_greedy(drafted: Sequence[int], logits: Tensor) -> DraftVerdict:
    """logits: [len(drafted) + 1, vocab_size], the verifier's before each drafted token and after the last."""
    best = logits.argmax(-1).tolist()
    accepted = next((place for place, token in enumerate(drafted) if token != best[place]), len(drafted))
    return DraftVerdict(accepted=accepted, token=best[accepted])


def accept_sampled(drafted: Sequence[int], q: Sequence[Tensor], p: Tensor, generator: torch.Generator) -> DraftVerdict:
    """q: [vocab_size] per drafted token, what it was drawn from. p: [len(drafted) + 1, vocab_size], the verifier's."""
    chances = torch.rand(len(drafted), generator=generator).tolist()
    for place, (token, chance) in enumerate(zip(drafted, chances, strict=True)):
        if chance * float(q[place][token]) < float(p[place, token]):
            continue
        left = (p[place] - q[place]).clamp_(min=0)
        # Where p and q agree but for rounding, nothing may be left of the difference: then either will do.
        return DraftVerdict(accepted=place, token=draw_index(left if float(left.sum()) > 0 else p[place], generator))
    return DraftVerdict(accepted=len(drafted), token=draw_index(p[-1], generator))
