"""Speculative decoding within one MatFormer: a submodel drafts, a larger one verifies the draft in one forward.

With a shared KV cache (appendix B.2) the drafter puts its keys and values behind the verifier's. To verify, they are
forgotten and the verifier runs over the same places, so what stands is the verifier's alone, and the drafter reads
richer keys and values of the past than its own. Nothing is computed twice: the verifier has already written all that
the drafter builds upon. With separate caches the drafter reads the prompt itself, and after a draft that stood as a
whole catches up on its last token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.decoding.draft_length import DraftLength, FixedLength
from lts_ray.decoding.drafter import Draft, Drafter, check_draft
from lts_ray.decoding.plain_loop import check_length
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.decoding.verifier import Verifier
from lts_ray.errors import LtsRayError
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one forward of the verifier gave. The prompt's own is the first, with nothing drafted."""

    tokens: tuple[int, ...]
    """At most `accepted` drafted ones and one of the verifier; fewer where the response ended among them."""
    drafted: int
    accepted: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of a response or several, without the prompts' own steps and tokens."""

    tokens: int
    verifier_steps: int
    drafted: int
    accepted: int
    fallen: int
    """Steps at which a draft fell."""

    @classmethod
    def of(cls, responses: Iterable[Sequence[Round]]) -> Statistics:
        steps = [step for rounds in responses for step in rounds[1:]]
        return cls(
            tokens=sum(len(step.tokens) for step in steps),
            verifier_steps=len(steps),
            drafted=sum(step.drafted for step in steps),
            accepted=sum(step.accepted for step in steps),
            fallen=sum(step.accepted < step.drafted for step in steps),
        )

    @property
    def accepted_share(self) -> float:
        """Of all drafted tokens; 0 where none was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def acceptance(self) -> float:
        """The chance that a drafted token stands where all before it did; 0 where none was drafted."""
        return self.accepted / (self.accepted + self.fallen) if self.drafted else 0.0

    @property
    def tokens_per_step(self) -> float:
        return self.tokens / self.verifier_steps if self.verifier_steps else 0.0


def speculate(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    draft: Submodel,
    submodel: Submodel,
    max_tokens: int,
    length: DraftLength | int,
    shared: bool = True,
    draft_model: UniversalModel | None = None,
    draft_vocabulary: Tensor | None = None,
    doubt: float = 0.0,
    sampling: Sampling = GREEDY,
    eos_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Round]:
    """Yield what `submodel` alone would give, round by round; `tokens_of` makes tokens of it, as `generate` yields.

    Greedy: the same tokens, unless two logits are so close that forwards of different length round them apart.
    Sampling: tokens of the same distribution, but not those that the same seed gives `generate`. length: tokens to
    draft, or the rule for it. draft_model: the same model in another precision, to draft in; None: `model` drafts.
    draft_vocabulary, doubt: see `Drafter`. Raises LtsRayError, before the first round, when
    prompt and response do not fit the context together, the drafter is the wider one or an argument is out of range.
    """
    config = model.config
    check_length(len(prompt_ids), max_tokens, config.context_length)
    check_draft(config.check(draft), config.check(submodel))
    if not 0 <= doubt <= 1:
        raise LtsRayError(f"doubt is a probability, from 0 to 1; got {doubt}")
    caches = [model.empty_cache(length=len(prompt_ids) + max_tokens) for _ in range(1 if shared else 2)]
    generator = torch.Generator() if generator is None else generator
    drafter = Drafter(
        draft_model or model,
        draft,
        caches[-1],
        vocabulary=draft_vocabulary,
        doubt=doubt,
        sampling=sampling,
        eos_ids=eos_ids,
        generator=generator,
    )
    verifier = Verifier(model=model, submodel=submodel, cache=caches[0], sampling=sampling, generator=generator)
    rule = FixedLength(length) if isinstance(length, int) else length
    return _speculate(list(prompt_ids), drafter, verifier, rule, max_tokens, eos_ids)


def tokens_of(rounds: Iterable[Round]) -> Iterator[int]:
    """The tokens, one by one; none of `eos_ids` is among them."""
    return (token for round_ in rounds for token in round_.tokens)


def _speculate(
    sequence: list[int],
    drafter: Drafter,
    verifier: Verifier,
    rule: DraftLength,
    max_tokens: int,
    eos_ids: Collection[int],
) -> Iterator[Round]:
    """Between rounds the verifier's cache holds `sequence` without its last token, and the drafter's no more."""
    draft, left = Draft(), max_tokens
    while True:
        with torch.inference_mode():  # around the round only: between yields the mode would leak to the caller
            verdict = verifier.judge(sequence, draft)
        tokens = [*draft.tokens[: verdict.accepted], verdict.token]
        sequence += tokens
        for cache in (verifier.cache, drafter.cache):
            cache.truncate(0, min(int(cache.lengths[0]), len(sequence) - 1))
        end = next((place for place, token in enumerate(tokens) if token in eos_ids), None)
        tokens = tokens[:end]
        left -= len(tokens)
        yield Round(tokens=tuple(tokens), drafted=len(draft.tokens), accepted=verdict.accepted)
        if end is not None or not left:
            return
        rule = rule.after(drafted=len(draft.tokens), accepted=verdict.accepted)
        with torch.inference_mode():
            # One token fewer than are left: the verifier adds one, and nothing may pass the context.
            draft = drafter.draft(sequence, min(rule.tokens, left - 1))
            verifier.cache.truncate(0, len(sequence) - 1)  # what a drafter that shares it has put there
