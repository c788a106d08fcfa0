"""The small submodel of speculative decoding: drafts tokens one by one behind what its cache holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.decoding.sampling import Sampling, draw_index, probabilities
from lts_ray.errors import LtsRayError
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


def most_frequent(tokens: Sequence[int] | Tensor | np.ndarray, size: int) -> Tensor:
    """The `size` most frequent token ids of a text, fewer where it has fewer. Returns int64, ascending."""
    if size < 1:
        raise LtsRayError(f"a draft vocabulary has at least one token; got {size}")
    counts = torch.as_tensor(tokens).flatten().long().bincount()
    order = counts.argsort(descending=True, stable=True)[: min(size, int(counts.count_nonzero()))]
    return order.sort().values


@dataclass(frozen=True, kw_only=True)
class Draft:
    tokens: list[int] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    """[vocab_size] per token, what it was drawn from; none where drafting is greedy."""


class Drafter:
    """Holds what does not change within a response.

    vocabulary: token ids that may be drafted (None: all). The output head is computed for these alone: with many
    tokens and few neurons it is most of a drafter's work. doubt: drafting stops once the chance that all tokens so far
    stand, as the drafter sees it, is below this. That is asked after a token is drawn and never takes one back, else
    which tokens are verified would depend on what they are, and the verifier's distribution be lost.
    """

    def __init__(
        self,
        model: UniversalModel,
        submodel: Submodel,
        cache: KVCache,
        *,
        vocabulary: Tensor | None = None,
        doubt: float = 0.0,
        sampling: Sampling,
        eos_ids: Collection[int],
        generator: torch.Generator,
    ) -> None:
        self.cache = cache
        self._model, self._submodel, self._doubt = model, submodel, doubt
        self._sampling, self._eos_ids, self._generator = sampling, eos_ids, generator
        self._head: Tensor | None = None  # [len(vocabulary), d_model]
        if vocabulary is not None:
            self._vocabulary = _check_vocabulary(vocabulary, model.config.vocab_size)
            self._ids: list[int] = self._vocabulary.tolist()
            if not isinstance(model, MatFormer):
                raise LtsRayError("a draft vocabulary needs a model whose logits are one product: leave it out")
            head = model.output_weight.detach()
            self._head = head[self._vocabulary.to(head.device)]

    def draft(self, sequence: Sequence[int], length: int) -> Draft:
        """At most `length` tokens that may follow `sequence`, of which the cache holds all but the last at most."""
        draft = Draft()
        unseen, chance = list(sequence[int(self.cache.lengths[0]) :]), 1.0
        while len(draft.tokens) < length and chance >= self._doubt:
            logits = self._logits(unseen)
            if self._sampling.temperature == 0:
                place = int(logits.argmax())
                if self._doubt:
                    chance *= float(torch.softmax(logits.float(), dim=-1)[place])
            else:
                q = probabilities(logits, self._sampling)
                place = draw_index(q, self._generator)
                draft.probabilities.append(self._of_all(q))
                if self._doubt:
                    chance *= float(q.max())
            token = place if self._head is None else self._ids[place]
            draft.tokens.append(token)
            if token in self._eos_ids:
                break
            unseen = [token]
        return draft

    def _logits(self, tokens: list[int]) -> Tensor:
        """Of what follows `tokens`, which go into the cache: [vocab_size], or [len(vocabulary)]."""
        step = torch.tensor([tokens], device=self._model.weight.device)
        if self._head is None:
            logits: Tensor = self._model(step, submodel=self._submodel, cache=self.cache, last_only=True)
            return logits[0, -1]
        hidden = self._model.hidden(step, submodel=self._submodel, cache=self.cache)
        return functional.linear(hidden[0, -1], self._head[:, : hidden.shape[-1]])

    def _of_all(self, q: Tensor) -> Tensor:
        """q over the draft vocabulary, as a distribution over all tokens: 0 elsewhere."""
        if self._head is None:
            return q
        return q.new_zeros(self._model.config.vocab_size).index_copy_(0, self._vocabulary, q)


def check_draft(draft: Submodel, submodel: Submodel) -> None:
    """Any submodel drafts for a larger one, and for itself. Raises LtsRayError where the drafter is wider somewhere."""
    if not draft.is_within(submodel):
        raise LtsRayError(f"the draft {draft.text} is wider than its verifier {submodel.text}: choose a smaller one")


def _check_vocabulary(vocabulary: Tensor, vocab_size: int) -> Tensor:
    """On the CPU. Raises LtsRayError for ids that the model does not have, or has twice."""
    ids = vocabulary.cpu().long()
    if ids.dim() != 1 or not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise LtsRayError(f"the draft vocabulary is a list of token ids from 0 to {vocab_size - 1}")
    if len(set(ids.tolist())) != len(ids):
        raise LtsRayError("the draft vocabulary names a token twice")
    return ids
