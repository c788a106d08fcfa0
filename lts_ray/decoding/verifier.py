"""The larger submodel of speculative decoding: judges a draft in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lts_ray.decoding.acceptance import DraftVerdict, accept_greedy, accept_sampled
from lts_ray.decoding.drafter import Draft
from lts_ray.decoding.sampling import Sampling, probabilities
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Holds what does not change within a response."""

    model: UniversalModel
    submodel: Submodel
    cache: KVCache
    sampling: Sampling
    generator: torch.Generator

    def judge(self, sequence: Sequence[int], draft: Draft) -> DraftVerdict:
        """Runs over what the cache lacks of `sequence`, its last token at least, and over the draft behind it."""
        held = int(self.cache.lengths[0])
        step = torch.tensor([[*sequence[held:], *draft.tokens]], device=self.model.weight.device)
        hidden = self.model.hidden(step, submodel=self.submodel, cache=self.cache)
        logits = self.model.logits(hidden[0, -1 - len(draft.tokens) :])  # [1 + drafted, vocab_size]
        if self.sampling.temperature == 0:
            return accept_greedy(draft.tokens, logits)
        p = probabilities(logits, self.sampling)
        return accept_sampled(draft.tokens, draft.probabilities, p, self.generator)
