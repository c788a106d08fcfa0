"""Log-likelihoods of given continuations, of many texts at once.

Texts are sorted by length and padded on the right: nothing before the padding can see it, so that a batch gives what
its rows give alone. Logits are made at the scored places only, for a part of them at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.evaluation.validation_loss import token_parts
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


@dataclass(frozen=True, slots=True)
class Continuation:
    tokens: tuple[int, ...]
    """Context and continuation."""
    scored: int
    """So many of the last ones are the continuation; at least one is not."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    nats: float
    """The continuation's log-probability."""
    is_greedy: bool
    """Whether each of its tokens was the most likely one."""


def likelihoods(
    model: UniversalModel,
    submodel: Submodel,
    texts: Sequence[Continuation],
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Likelihood]:
    """Of each text, in their order. progress: told how many more are done.

    Texts that differ in their last token alone, such as the choices of a question often do, are read once.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)  # places in `texts`, by what the model reads
    for place, text in enumerate(texts):
        alike[text.tokens[:-1]].append(place)
    longest_first = sorted(alike, key=lambda read: (-len(read), read))
    by_place: dict[int, Likelihood] = {}
    for start in range(0, len(longest_first), batch_size):
        rows = longest_first[start : start + batch_size]
        places = [alike[read] for read in rows]
        scored = _batch(model, submodel, rows, [[texts[place] for place in row] for row in places])
        flat = [place for row in places for place in row]
        by_place |= zip(flat, scored, strict=True)
        progress(len(flat))
    return [by_place[place] for place in range(len(texts))]


@torch.inference_mode()
def _batch(
    model: UniversalModel, submodel: Submodel, rows: Sequence[tuple[int, ...]], texts: Sequence[Sequence[Continuation]]
) -> list[Likelihood]:
    """Of the texts of each row, which all read the row's tokens; row by row."""
    device = next(model.parameters()).device
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)  # [B, T]
    owners: list[int] = []  # of each scored token, its text
    row_of: list[int] = []
    place_of: list[int] = []
    targets: list[int] = []
    for row, (read, alike) in enumerate(zip(rows, texts, strict=True)):
        for text in alike:
            owner = owners[-1] + 1 if owners else 0
            owners += [owner] * text.scored
            row_of += [row] * text.scored
            place_of += range(len(read) - text.scored, len(read))
            targets += text.tokens[-text.scored :]
    hidden = model.hidden(tokens, submodel=submodel)[row_of, place_of]  # [n, d_model]
    nats, greedy = _scores(model, hidden, torch.tensor(targets, device=device))
    owner_of = torch.tensor(owners)
    count = owners[-1] + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, owner_of, nats)
    misses = torch.zeros(count, dtype=torch.int64).index_add_(0, owner_of, (~greedy).long())
    return [Likelihood(total, missed == 0) for total, missed in zip(sums.tolist(), misses.tolist(), strict=True)]


def _scores(model: UniversalModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """hidden: [n, d_model]; targets: [n]. Each target's log-probability [n], float64, and whether it is likeliest."""
    nats, greedy = [], []
    for part in token_parts(len(targets), model.config.vocab_size, targets.device):
        log_p = functional.log_softmax(model.logits(hidden[part]).float(), dim=-1)
        nats.append(log_p.gather(-1, targets[part, None])[:, 0])
        greedy.append(log_p.argmax(dim=-1) == targets[part])
    return torch.cat(nats).double().cpu(), torch.cat(greedy).cpu()
