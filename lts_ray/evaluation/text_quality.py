"""How good submodels of a checkpoint are on a text: what `lts-ray evaluate` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.checkpoints.universal import load_universal, read_universal
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.consistency import Consistency, Predictor, consistency
from lts_ray.evaluation.named_submodels import frontier_points, submodels_of
from lts_ray.submodel import Submodel
from lts_ray.text.batches import blocks_of, tokenize, validation_blocks
from lts_ray.text.corpus import read_corpus
from lts_ray.text.held_out_tokens import HeldOutTokens

SOTU = "sotu"
"""For a model that carries no held-out text."""
LENGTH = 512
"""Tokens of a sequence, unless asked otherwise: a context of many thousands would leave few sequences, slow ones."""


@dataclass(frozen=True, kw_only=True)
class SubmodelQuality(Consistency):
    """The reference is the universal model."""

    name: str
    submodel: Submodel
    decoder_params: int
    tokens: int
    """Of the text."""

    @property
    def perplexity(self) -> float:
        """Infinite where it is more than a number can hold."""
        return float(np.exp(self.loss))


def evaluate(
    model_dir: Path,
    names: Sequence[str] | None,
    *,
    frontier: Path | None = None,
    text: str | None,
    corpus: str | None = None,
    blocks: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SubmodelQuality]:
    """Evaluate each named submodel, all of them in one pass over the text.

    names: None: the granularities, and the frontier's points where there is one. frontier: a file whose points may be
    named. text: a file or glob; None: the documents of `corpus` that training holds out, or, of
    None, what the checkpoint carries, or else those of `SOTU`. It is cut into sequences; a
    last shorter one is left out. blocks: at most so many sequences. length: of a sequence, in tokens; None: `LENGTH`,
    or a shorter context. progress: told how many are done, and of how many.
    Raises LtsRayError for an unusable model, submodel, frontier or text.
    """
    checkpoint = load_universal(model_dir, device=device)
    model = checkpoint.model
    points = frontier_points(frontier, checkpoint.fingerprint, model.config)
    submodels = submodels_of(model.config, names, points)
    data = evaluation_blocks(model_dir, text=text, corpus=corpus, count=blocks, length=length)
    measured = consistency(
        Predictor(*checkpoint.run_by(model.config.universal)),
        [Predictor(*checkpoint.run_by(submodel)) for submodel in submodels.values()],
        data,
        progress=progress,
    )
    return [
        SubmodelQuality(
            name=name,
            submodel=submodel,
            decoder_params=model.config.decoder_params(submodel),
            tokens=data[:, 1:].numel(),
            **asdict(of_one),
        )
        for (name, submodel), of_one in zip(submodels.items(), measured, strict=True)
    ]


def text_name(model_dir: Path, *, text: str | None, corpus: str | None) -> str:
    """Of what `evaluation_blocks` gives, for the user: which text a figure is on."""
    if text is not None:
        return text
    if corpus is None:
        carried = HeldOutTokens.read(model_dir, vocab_size=read_universal(model_dir)[0].vocab_size)
        if carried is not None:
            return f"what the model's training held out of {carried.corpus}"
    return f"what a training would hold out of {corpus or SOTU}"


def evaluation_blocks(
    model_dir: Path, *, text: str | None, corpus: str | None, count: int | None, length: int | None = None
) -> Tensor:
    """The text for `evaluate`, in the model's tokens. Returns [N, T + 1], T at most `length`, or what None stands for.

    What is left behind the last whole sequence is not in it; a text shorter than one is a sequence of its own length.
    Raises LtsRayError where the length is more than the model's context.
    """
    config, _ = read_universal(model_dir)
    context = config.context_length
    if length is not None and length > context:
        raise LtsRayError(f"sequences of {length} tokens do not fit the model's context of {context}")
    length = min(LENGTH, context) if length is None else length
    tokenizer = load_model_tokenizer(model_dir, vocab_size=config.vocab_size)
    carried = HeldOutTokens.read(model_dir, vocab_size=config.vocab_size) if text is corpus is None else None
    if text is None and carried is None:
        return validation_blocks(corpus or SOTU, tokenizer, length=length, count=count)
    tokens = tokenize(read_corpus(text or ""), tokenizer) if carried is None else carried.tokens
    return blocks_of(tokens, length=min(length, max(1, len(tokens) - 1)), count=count)
