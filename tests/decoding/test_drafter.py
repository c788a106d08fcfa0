from __future__ import annotations

import torch

from lts_ray.decoding.drafter import most_frequent


def test_the_most_frequent_tokens_of_a_text_are_the_draft_vocabulary() -> None:
    text = [5, 5, 5, 2, 2, 9, 9, 9, 9, 1]
    assert most_frequent(text, 2).tolist() == [5, 9]
    assert most_frequent(torch.tensor(text), 100).tolist() == [1, 2, 5, 9]
