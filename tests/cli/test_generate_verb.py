from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from lts_ray.cli.generate import generate
from lts_ray.decoding import draft_costs, plain_loop
from lts_ray.decoding.draft_length import DraftCosts
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from tests.tokenizer_kinds import KINDS, with_beginnings

PROMPT = "the law of the people"


def run(model_dir: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    """What it prints, and what it says on stderr."""
    generate(prompt=PROMPT, model=model_dir, max_tokens=20, **options)
    found = capsys.readouterr()
    return found.out, found.err


@pytest.mark.parametrize("length", [None, "adaptive", "3"])
def test_a_draft_changes_no_token_and_what_it_did_is_said_in_a_line(
    model_dir: Path, capsys: pytest.CaptureFixture[str], length: str | None
) -> None:
    alone, silence = run(model_dir, capsys)
    drafted, told = run(model_dir, capsys, draft="S", draft_length=length)
    assert (drafted, silence) == (alone, "")
    counts = r"\d+ tokens drafted, \d+ accepted; \d\.\d\d tokens a step\n"
    assert re.fullmatch(counts if length == "3" else f"{counts}|nothing drafted: .*\\n", told)


@pytest.mark.parametrize("draft", [None, "S"], ids=["alone", "drafted"])
def test_a_prompt_begins_as_its_tokenizer_has_it_and_its_text_goes_on(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], draft: str | None
) -> None:
    """With a tokenizer as Llama 2's: the first token is there, a word's blank is kept, the last bytes come out."""
    folder = tmp_path / "model"
    copytree(model_dir, folder)
    tokenizer = with_beginnings(replace(KINDS["llama_2"], settings={"eos_token": "</s>"}), "<s>")
    save_tokenizer(tokenizer, folder)
    model = load_checkpoint(folder).model
    prompt = "a b"
    ids = [1, *tokenizer.backend.encode(prompt, add_special_tokens=False).ids]
    ends = load_tokenizer(folder).eos_ids
    made = list(plain_loop.generate(model, ids, submodel=model.config.universal, max_tokens=20, eos_ids=ends))
    generate(prompt=prompt, model=folder, max_tokens=20, draft=draft)
    assert capsys.readouterr().out == tokenizer.decode([*ids, *made]) + "\n"


def test_the_draft_length_follows_the_costs_that_are_measured(
    model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest drafts for itself: all of its tokens stand, and the costs alone decide."""

    def drafted(costs: DraftCosts) -> str:
        monkeypatch.setattr(draft_costs, "measure_draft_costs", lambda *_, **options: [costs])
        return run(model_dir, capsys, draft="XL")[1]

    # 19 tokens follow the prompt's own: six whole rounds of a draft and the verifier's token, or 19 without a draft
    assert drafted(DraftCosts(draft=0.1, verify=(1.0, 1.1, 1.2))).startswith("12 tokens drafted, 12 accepted; 2.71")
    assert drafted(DraftCosts(draft=2.0, verify=(2.0, 3.0, 4.0))) == (
        "nothing drafted: a drafted token costs 1.00 of a step here and verifying one 1.50, so no draft would gain; "
        "--draft-length 2 drafts all the same\n"
    )
    assert drafted(DraftCosts(draft=0.1, verify=(1.0,))).startswith("nothing drafted: the response is too short")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_length": "3"}, "give both"),
        ({"draft": "S", "draft_length": "many"}, "got 'many'"),
        ({"draft": "S", "draft_length": "0"}, "of at least 1, or adaptive; got '0'"),
        ({"draft": "XL", "submodel": "S"}, "is wider than its verifier"),
        ({"draft": "XL", "submodel": "S", "draft_length": "2"}, "is wider than its verifier"),
    ],
    ids=["no draft", "no number", "nothing to draft", "wider", "wider, fixed"],
)
def test_what_makes_no_sense_is_refused(model_dir: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        generate(prompt=PROMPT, model=model_dir, max_tokens=20, **options)  # type: ignore[arg-type]
