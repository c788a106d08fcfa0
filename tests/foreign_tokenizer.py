"""A tokenizer as others write theirs: tokens of its own for beginning, end, padding and what is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lts_ray.text.tokenizer import train_tokenizer
from tests.conftest import make_text

CHAT_TEMPLATE = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}
[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}{% endfor %}""".replace("\n", "")


def write_foreign_tokenizer(folder: Path, *, vocab_size: int = 290) -> None:
    """As transformers saves it. vocab_size: with its five special tokens."""
    backend = train_tokenizer([make_text(seed=0)], vocab_size=vocab_size - 5).backend
    backend.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>", "<tool>"])
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<tool>"],
        model_max_length=77,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def assert_same_tokenizer(before: Path, after: Path) -> Any:
    """To transformers; returns the tokenizer of `after`."""
    one, two = (AutoTokenizer.from_pretrained(each) for each in (before, after))
    for name in (
        "special_tokens_map",
        "all_special_ids",
        "extra_special_tokens",
        "chat_template",
        "model_max_length",
        "clean_up_tokenization_spaces",
    ):
        assert getattr(two, name) == getattr(one, name), name
    text = "<s>the great nation — 1863</s>"
    assert two(text)["input_ids"] == one(text)["input_ids"]
    return two
