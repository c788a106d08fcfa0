"""What speculation is measured on: prompts out of a text, and which tokens are frequent where no prompt is from.

A draft vocabulary counted on what the prompts go on with would know the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.decoding.drafter import most_frequent
from lts_ray.errors import LtsRayError
from lts_ray.text.batches import Tokens, split_documents, tokenize
from lts_ray.text.corpus import read_corpus
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.run_settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class SpeculationText:
    """prompts: [P, T]. draft_vocabulary: token ids that may be drafted; None: all."""

    prompts: Tensor
    draft_vocabulary: Tensor | None = None


def choose_text(
    blocks: Tensor,
    *,
    prompts: int,
    prompt_tokens: int,
    draft_vocabulary: int | None = None,
    counted: Tokens | None = None,
) -> SpeculationText:
    """Prompts are the beginnings of blocks spread over the text, the vocabulary the most frequent tokens of `counted`.

    blocks: [N, T + 1], each as long as a prompt with its response. counted: other text; None: the blocks that no prompt
    is from. Raises LtsRayError where there is too little of it.
    """
    if prompts < 1 or not 1 <= prompt_tokens < blocks.shape[1]:
        raise LtsRayError(f"{prompts} prompts of {prompt_tokens} tokens: need some, shorter than {blocks.shape[1]}")
    if blocks.shape[0] < prompts + (draft_vocabulary is not None and counted is None):
        raise LtsRayError(f"the text has {blocks.shape[0]} blocks: too few for {prompts} prompts; ask for fewer")
    places = torch.linspace(0, blocks.shape[0] - 1, prompts).round().long()
    chosen = blocks[places, :prompt_tokens]
    if draft_vocabulary is None:
        return SpeculationText(prompts=chosen)
    rest = torch.ones(blocks.shape[0], dtype=torch.bool)
    rest[places] = False
    others = blocks[rest, :-1] if counted is None else counted  # a block's last token is the first of the next
    return SpeculationText(prompts=chosen, draft_vocabulary=most_frequent(others, draft_vocabulary))


def training_tokens(model_dir: Path, corpus: str) -> Tokens:
    """The documents of `corpus` that training did not hold out, in the model's tokens. Raises LtsRayError."""
    training, _ = split_documents(read_corpus(corpus), DataSettings().validation_fraction)
    return tokenize(training, load_tokenizer(model_dir))
