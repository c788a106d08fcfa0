"""Which tokens end a text: as transformers reads them, in every way of generating one, and kept when it is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.cli.generate import generate as generate_verb
from lts_ray.decoding.plain_loop import generate
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness.completion import CompletionSettings, complete
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer

PROMPT = "the law of the people"


def write(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> Path:
    """Over what the files of the folder say."""
    for name, values in files.items():
        path = folder / name
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(before | dict(values)), encoding="utf-8")
    return folder


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture
def plain(folder: Path, universal: MatFormer) -> list[int]:
    """What the model goes on with where nothing ends it."""
    ids = load_tokenizer(folder).encode(PROMPT)
    return list(generate(universal, ids, submodel=universal.config.universal, max_tokens=20))


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, {0}),
        ({"config.json": {"eos_token_id": [7, 9]}}, {0, 7, 9}),
        ({"config.json": {"eos_token_id": 7}}, {0, 7}),
        ({"config.json": {"eos_token_id": None}}, {0}),
        ({"generation_config.json": {"eos_token_id": [7, 9]}}, {0, 7, 9}),
        ({"generation_config.json": {"eos_token_id": 7}}, {0, 7}),
        ({"generation_config.json": {"temperature": 0.6}}, {0}),
        ({"config.json": {"eos_token_id": [7]}, "generation_config.json": {"eos_token_id": [8, 9]}}, {0, 7, 8, 9}),
        ({"config.json": {"eos_token_id": [1, 5], "text_config": {"eos_token_id": 6}}}, {0, 1, 5, 6}),
        ({"config.json": {"text_config": {"eos_token_id": [6, 7]}}}, {0, 6, 7}),
        ({"config.json": {"eos_token_id": [7, None, -1, "8", True, [9], 7.5, 10**30]}}, {0, 7, 10**30}),
    ],
    ids=str,
)
def test_every_token_that_a_file_names_ends_a_text_and_is_kept(
    folder: Path, files: Mapping[str, Mapping[str, Any]], ends: set[int], tmp_path: Path
) -> None:
    """Also where only the tokenizer is saved, as a training run does, and where a submodel is extracted."""
    tokenizer = load_tokenizer(write(folder, files))
    assert (tokenizer.eos_id, tokenizer.eos_ids) == (0, ends)
    save_tokenizer(tokenizer, tmp_path / "data")
    save_tokenizer(load_tokenizer(tmp_path / "data"), tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").eos_ids == ends
    said = files.get("generation_config.json", {})
    if said:
        kept = json.loads((tmp_path / "again" / "generation_config.json").read_text(encoding="utf-8"))
        assert {**said, "eos_token_id": kept.get("eos_token_id")} == {"eos_token_id": None, **kept}


def test_a_submodel_of_its_own_ends_where_the_whole_does_here_and_in_transformers(folder: Path, tmp_path: Path) -> None:
    write(
        folder, {"config.json": {"eos_token_id": [7, 9]}, "generation_config.json": {"eos_token_id": [8], "top_k": 5}}
    )
    extract_checkpoint(folder, "S", tmp_path / "small")
    assert load_tokenizer(tmp_path / "small").eos_ids == {0, 7, 8, 9}
    theirs = GenerationConfig.from_pretrained(tmp_path / "small")
    assert (set(theirs.eos_token_id), theirs.top_k) == ({7, 8, 9}, 5)


def test_a_tokenizer_that_names_no_end_has_the_models_first(folder: Path) -> None:
    write(folder, {"tokenizer_config.json": {"eos_token": None}, "config.json": {"eos_token_id": [7, 9]}})
    assert load_tokenizer(folder).eos_id == 7


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_that_is_no_json_is_one_line(folder: Path, name: str) -> None:
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(LtsRayError, match=f"{name} cannot be read as JSON"):
        load_tokenizer(folder)


@pytest.mark.parametrize("draft", [None, "S"], ids=["alone", "speculative"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_any_of_several_ends_a_generated_text_and_is_not_shown(
    folder: Path, plain: list[int], capsys: pytest.CaptureFixture[str], file: str, draft: str | None
) -> None:
    ends = [plain[9], plain[5]]
    write(folder, {file: {"eos_token_id": ends}})
    generate_verb(prompt=PROMPT, model=folder, max_tokens=20, draft=draft)
    first = min(map(plain.index, ends))
    assert first < len(plain)
    assert capsys.readouterr().out == PROMPT + load_tokenizer(folder).decode(plain[:first]) + "\n"


def test_a_completion_under_lm_eval_ends_there_too(folder: Path, universal: MatFormer, plain: list[int]) -> None:
    ends = [plain[9], plain[5]]
    tokenizer = load_tokenizer(write(folder, {"generation_config.json": {"eos_token_id": ends}}))
    settings = CompletionSettings.parse({"until": [], "max_gen_toks": 20})
    found = complete(
        universal,
        tokenizer,
        tokenizer.encode(PROMPT),
        submodel=universal.config.universal,
        settings=settings,
        generator=torch.Generator(),
    )
    assert found == tokenizer.decode(plain[: min(map(plain.index, ends))])
