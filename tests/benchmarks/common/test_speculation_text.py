from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common.speculation_text import choose_text, training_tokens
from lts_ray.errors import LtsRayError
from lts_ray.text.batches import blocks_of, split_documents, tokenize
from lts_ray.text.corpus import read_corpus
from lts_ray.text.tokenizer import load_tokenizer


def test_prompts_are_spread_over_the_text_and_the_vocabulary_is_of_the_rest() -> None:
    blocks = torch.stack([torch.full((6,), value) for value in range(5)])
    found = choose_text(blocks, prompts=3, prompt_tokens=2, draft_vocabulary=10)
    assert found.prompts.tolist() == [[0, 0], [2, 2], [4, 4]]
    assert found.draft_vocabulary is not None
    assert found.draft_vocabulary.tolist() == [1, 3]
    assert choose_text(blocks, prompts=5, prompt_tokens=2).draft_vocabulary is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": 6}, "5 blocks"),
        ({"prompts": 5, "draft_vocabulary": 3}, "5 blocks"),
        ({"prompt_tokens": 6}, "shorter than 6"),
    ],
    ids=["prompts", "vocabulary", "length"],
)
def test_too_little_text_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        choose_text(torch.zeros(5, 6, dtype=torch.int64), **{"prompts": 2, "prompt_tokens": 2, **wrong})


def test_no_token_of_a_prompts_own_block_is_counted() -> None:
    """Tokens are their places: where a block ends the next begins."""
    blocks = blocks_of(np.arange(31, dtype=np.int32), length=6)  # [5, 7]
    found = choose_text(blocks, prompts=3, prompt_tokens=2, draft_vocabulary=40)
    assert found.draft_vocabulary is not None
    assert found.draft_vocabulary.tolist() == [*range(6, 12), *range(18, 24)]


def test_the_vocabulary_may_be_of_another_text() -> None:
    blocks = torch.zeros(3, 6, dtype=torch.int64)
    counted = np.array([5, 5, 7, 7, 7, 2], dtype=np.int32)
    found = choose_text(blocks, prompts=3, prompt_tokens=2, draft_vocabulary=2, counted=counted)
    assert found.draft_vocabulary is not None
    assert found.draft_vocabulary.tolist() == [5, 7]


def test_what_training_read_is_all_that_it_did_not_hold_out(model_dir: Path, texts: Path) -> None:
    source, tokenizer = str(texts / "*.txt"), load_tokenizer(model_dir)
    _, held_out = split_documents(read_corpus(source), 0.05)
    (aside,) = held_out
    others = [each for each in read_corpus(source) if each != aside]
    assert training_tokens(model_dir, source).tolist() == tokenize(others, tokenizer).tolist()
