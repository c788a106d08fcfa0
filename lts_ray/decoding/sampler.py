"""The tokens of one response, chosen one by one: what `sampling.py` does, with what depends on the tokens so far.

Logits are edited in vLLM's order, which is transformers' too: min_tokens and logit_bias, repetition, then frequency and
presence. Log probabilities are those of the model itself, before any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from lts_ray.decoding.sampling import COLDEST, Sampling, draw_shares, pick_token
from lts_ray.pick import ChosenToken, Pick


class Sampler:
    """stop_ids: tokens that end a response, which min_tokens holds back. top_logprobs: None for none at all; 0 for the
    chosen token's alone. produced: by another sampler of the same seed, which this one takes over from."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        generator: torch.Generator,
        prompt: Sequence[int],
        stop_ids: frozenset[int] = frozenset(),
        top_logprobs: int | None = None,
        produced: Sequence[int] = (),
    ) -> None:
        self._sampling, self._top, self._draws = sampling, top_logprobs, draw_shares(generator)
        self._produced = len(produced)
        if sampling.temperature > 0:
            torch.rand(len(produced), dtype=torch.float64, generator=generator)  # one a token, as draw_index takes
        self._stops = torch.tensor(sorted(stop_ids), dtype=torch.long)
        self._biased = torch.tensor(list(sampling.logit_bias), dtype=torch.long)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
        self._penalties = Penalties(sampling, prompt, produced) if sampling.has_penalties else None
        self._greedy = Pick(logprobs=top_logprobs)
        # Asked for every token of every response, unlike what they are made of.
        self._held = sampling.min_tokens if stop_ids else 0
        self._edits_all = len(self._biased) > 0 or self._penalties is not None

    @property
    def is_argmax(self) -> bool:
        """Whether it only ever takes the largest logit, and remembers nothing: then the caller may do it instead."""
        return self._sampling.temperature == 0 and self._top is None and not self._sampling.edits_logits

    def pick(self) -> Pick | None:
        """How a device chooses the next token, which counts as produced. None where logits are edited: `choose` can.

        Takes the random number that `choose` would take, so that a response's tokens may be chosen now here, now there.
        """
        if self.edits:
            return None
        self._produced += 1
        sampling = self._sampling
        if sampling.temperature == 0:
            return self._greedy
        return Pick(
            temperature=max(sampling.temperature, COLDEST),
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            draw=next(self._draws),
            logprobs=self._top,
        )

    @property
    def edits(self) -> bool:
        """Whether the next token's logits are edited: min_tokens holds stop tokens back only until it is met."""
        return self._edits_all or self._produced < self._held

    def choose(self, logits: Tensor) -> ChosenToken:
        """The next token. logits: [vocab_size], left as they are. Draws on the CPU, as `sampling.sample` does."""
        token = pick_token(self._edited(logits), self._sampling, partial(next, self._draws))
        self._produced += 1
        if self._penalties is not None:
            self._penalties.note(token)
        return ChosenToken(token) if self._top is None else _with_logprobs(token, logits, self._top)

    def _edited(self, logits: Tensor) -> Tensor:
        if not self.edits:
            return logits
        logits = logits.detach().to("cpu", torch.float32, copy=True)
        if self._produced < self._sampling.min_tokens:
            logits[self._stops] = float("-inf")
        if len(self._biased):
            logits[self._biased] += self._bias
        if self._penalties is not None:
            self._penalties.apply(logits)
        return logits


class Penalties:
    """Which tokens are penalised, and how often each came: a token more costs the same however long the text is."""

    def __init__(self, sampling: Sampling, prompt: Iterable[int], produced: Iterable[int] = ()) -> None:
        self._sampling = sampling
        # Only the repetition penalty looks at the prompt.
        known = dict.fromkeys(prompt if sampling.repetition_penalty != 1 else ())
        self._places = {token: place for place, token in enumerate(known)}
        self._tokens = torch.tensor(list(known), dtype=torch.long)
        self._counts = torch.zeros(len(known))  # in the response
        for token in produced:
            self.note(token)

    def note(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):  # full: double it, so that growing costs the same per token
            more = max(16, place)
            self._tokens = torch.cat([self._tokens, self._tokens.new_zeros(more)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(more)])
        self._tokens[place] = token
        self._counts[place] += 1

    def apply(self, logits: Tensor) -> None:
        """In place. logits: [vocab_size]."""
        tokens, counts = self._tokens[: len(self._places)], self._counts[: len(self._places)]
        values = logits[tokens]
        repetition = self._sampling.repetition_penalty
        if repetition != 1:
            values = torch.where(values > 0, values / repetition, values * repetition)
        values -= self._sampling.frequency_penalty * counts
        values -= self._sampling.presence_penalty * (counts > 0)
        logits[tokens] = values


def _with_logprobs(token: int, logits: Tensor, n: int) -> ChosenToken:
    row = torch.log_softmax(logits.detach().float().cpu(), dim=-1)
    top = row.topk(min(n, len(row)))
    return ChosenToken(token, float(row[token]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
