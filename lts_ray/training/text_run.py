"""The training run of a language model, on one worker of any number: plain torch, no Ray.

OUTPUT holds settings.json, data/, metrics.jsonl, snapshots/ and, at the end, model/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lts_ray.console import progress_bars
from lts_ray.files import replacing
from lts_ray.text.batches import Batches, Tokens, blocks_of, split_documents, tokenize
from lts_ray.text.batches_ahead import BatchesAhead
from lts_ray.text.corpus import check_corpus, read_corpus
from lts_ray.text.held_out_tokens import HeldOutTokens
from lts_ray.text.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from lts_ray.training.loop import chosen, train
from lts_ray.training.new_learner import check_start, new_learner
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TextLessons:
    """The text of a run's folder; blocks are [B, T + 1]."""

    batches: Batches | BatchesAhead
    blocks: Tensor
    """All that are held out."""
    held_out_tokens: HeldOutTokens
    tokenizer: Tokenizer
    options: TrainingSettings
    unit: str = "tokens"

    @classmethod
    def read(cls, folder: RunFolder, options: TrainingSettings, *, corpus: str = "") -> TextLessons:
        """corpus: what the text is called in the checkpoint."""
        batches = Batches(
            tokens=np.load(folder.data / "train.npy", mmap_mode="r"),
            sequence_length=options.sequence_length,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        device = torch.device(options.device)
        held_out = HeldOutTokens(tokens=np.load(_validation(folder)), corpus=corpus)
        return cls(
            batches=batches if device.type == "cpu" else BatchesAhead(batches),
            blocks=blocks_of(held_out.tokens, length=options.sequence_length).to(device),
            held_out_tokens=held_out,
            tokenizer=load_tokenizer(folder.data),
            options=options,
        )

    @property
    def units(self) -> int:
        return self.options.batch_size * self.options.sequence_length

    def batch(self, step: int, *, rank: int, workers: int) -> Tensor:
        return self.batches.batch(step, rank=rank, workers=workers).to(self.options.device, non_blocking=True)

    def held_out(self, *, final: bool) -> Tensor:
        return self.blocks[: self.options.final_evaluation_blocks if final else self.options.evaluation_blocks]

    def save(self, checkpoint: Path) -> None:
        save_tokenizer(self.tokenizer, checkpoint)
        self.held_out_tokens.save(checkpoint)


def train_text(
    settings: RunSettings,
    folder: RunFolder,
    *,
    rank: int = 0,
    workers: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Run to the end, from where `folder` is, in which the text is prepared. See `loop.train`."""
    options = chosen(settings.training)
    settings = replace(settings, training=options)
    lessons = TextLessons.read(folder, options, corpus=settings.data.corpus)
    tokenizer, device = lessons.tokenizer, torch.device(options.device)
    learner = new_learner(settings, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, device=device)
    train(learner, lessons, options, folder, rank=rank, workers=workers, clock=clock)


def start_run(settings: RunSettings, folder: RunFolder) -> RunSettings:
    """Write the run's settings with every automatic choice made, so that resuming makes the same ones."""
    folder.check_unused()
    options = chosen(settings.training)
    resolved = replace(
        settings,
        training=replace(
            options,
            threads=options.threads or max(1, (os.cpu_count() or 1) // options.workers),
            teacher=_absolute(options.teacher),
        ),
        init_from=_absolute(settings.init_from),
    )
    check_start(resolved)
    if not _is_prepared(folder):
        check_corpus(resolved.data.corpus)
    folder.begin(resolved.to_json())
    return resolved


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def continue_run(folder: RunFolder) -> RunSettings:
    return RunSettings.from_json(folder.resume())


def prepare_text(settings: RunSettings, folder: RunFolder) -> None:
    """Tokenize the corpus into the run's folder, once."""
    if _is_prepared(folder):
        return
    with progress_bars() as show:
        show("reading the text", 0, 1)
        documents = read_corpus(settings.data.corpus, max_documents=settings.data.max_documents)
        training, held_out = split_documents(documents, settings.data.validation_fraction)
        source = settings.data.tokenizer or settings.init_from
        show("tokenizing", 0, len(documents))
        tokenizer = (
            train_tokenizer((document.text for document in training), vocab_size=settings.vocab_size)
            if source is None
            else load_tokenizer(Path(source))
        )
        save_tokenizer(tokenizer, folder.data)
        _save(folder.data / "train.npy", tokenize(training, tokenizer))
        _save(_validation(folder), tokenize(held_out, tokenizer))


def check_text(options: TrainingSettings, folder: RunFolder) -> None:
    """Raises LtsRayError where the prepared text is too short for the batches that are wanted, or for an evaluation."""
    TextLessons.read(folder, replace(options, device="cpu"))


def _is_prepared(folder: RunFolder) -> bool:
    return _validation(folder).exists()


def _validation(folder: RunFolder) -> Path:
    """Comes last, and marks the others done."""
    return folder.data / "validation.npy"


def _save(path: Path, tokens: Tokens) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens)
