"""A checkpoint's tokenizer, held against its model: each token has an embedding, though not each embedding a token."""

from __future__ import annotations

from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.text.tokenizer import Tokenizer, load_tokenizer


def load_model_tokenizer(folder: Path, *, vocab_size: int | None) -> Tokenizer:
    """Raises LtsRayError for one that cannot be read, or has a token beyond the model's embeddings (None: any goes)."""
    tokenizer = load_tokenizer(folder)
    if vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise LtsRayError(
            f"the tokenizer {folder} has {tokenizer.vocab_size} tokens, but the model only {vocab_size} embeddings: "
            "it is another model's tokenizer, or has tokens that were added without resizing the model"
        )
    return tokenizer


def check_tokenizer(folder: Path, *, vocab_size: int) -> None:
    """For what reads no text: a folder may have no tokenizer, but not another model's. Raises LtsRayError."""
    if (folder / "tokenizer.json").exists():
        load_model_tokenizer(folder, vocab_size=vocab_size)
