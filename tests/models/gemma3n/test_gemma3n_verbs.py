"""A Gemma 3n goes through the same doors as every universal model: verbs, measuring, and the engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lts_ray.checkpoints.universal import load_universal, read_universal, universal_fingerprint
from lts_ray.cli.main import app
from lts_ray.errors import LtsRayError
from lts_ray.measurement.subjects.submodel_subject import UniversalSource
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.segment import Segment
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.target import Target
from lts_ray.text.tokenizer import save_tokenizer, train_tokenizer
from serve.policies.menu import menu_of_granularities
from serve.policies.request import Request
from tests.conftest import make_text
from tests.models.gemma3n.tiny import their_logits, tiny_model
from tests.serve.models import alone, collect, tiny_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer of its own."""
    path = tmp_path_factory.mktemp("gemma3n")
    tokenizer = train_tokenizer([make_text(seed=seed) for seed in range(4)], vocab_size=300)
    size = tokenizer.vocab_size
    tiny_model(vocab_size=size, vocab_size_per_layer_input=size).save_pretrained(path)
    save_tokenizer(tokenizer, path)
    return path


def lts_ray(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_its_submodels_are_evaluated_and_generate(folder: Path, texts: Path) -> None:
    printed = lts_ray(
        "evaluate", "--model", folder, "--text", texts / "0.txt", "-s", "XL", "-s", "24,0,12,0,24,24,0,12,24", "--json"
    )
    rows = [json.loads(line) for line in printed.splitlines()]
    assert rows[0]["consistency"] == 1
    assert rows[1]["decoder_params"] < rows[0]["decoder_params"]
    assert lts_ray("generate", "--model", folder, "-s", "S", "--prompt", "the nation", "--max-tokens", "3")


def test_extract_writes_what_transformers_computes_alike(folder: Path, tmp_path: Path) -> None:
    text = "24,0,12,0,24,24,0,12,24"
    printed = lts_ray("extract", "--model", folder, "-s", text, "--output", tmp_path / "small")
    assert "plain transformers loads it" in printed
    tokens = torch.arange(1, 9)[None]
    model = load_universal(folder).model
    with torch.inference_mode():
        ours = model(tokens, submodel=model.config.submodel(text))
    torch.testing.assert_close(ours, their_logits(tmp_path / "small", tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [(["-s", "S", "--format", "gguf"], "Gemma 3n's are not"), (["-s", "S@int8"], "runs in float32")],
)
def test_what_extract_does_not_write_of_it_is_one_line(
    asked: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["extract", "-m", str(folder), "-o", str(tmp_path / "x"), *asked])
    assert isinstance(result.exception, LtsRayError)
    assert message in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_its_submodels_are_a_space_that_is_measured(folder: Path) -> None:
    config, _ = read_universal(folder)
    assert MixNMatch(config).contains(config.universal)
    model = load_universal(folder).model
    payload = {name: value.numpy() for name, value in model.state_dict().items()}
    target = Target(name="here", local=True, threads=1, sequence_length=8)
    subjects = UniversalSource(config).open(target, payload)
    assert subjects.subject(config.universal).kept_bytes > 0
    tokens = list(range(1, 9))
    piece = Segment(tokens=tokens, start=0, blocks=(0,), submodel=config.universal, wants_logits=True)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), submodel=config.universal)[:, -1]
    torch.testing.assert_close(subjects.runtime.run([piece]), expected)


def test_requests_of_different_submodels_share_the_engines_steps(folder: Path) -> None:
    model = load_universal(folder).model
    config = model.config
    menu = menu_of_granularities(config, {})
    requests = [
        Request(prompt=tuple(range(3, 9 + place)), max_tokens=8, pinned=menu.named[name], ignore_eos=True)
        for place, name in enumerate(config.granularities)
    ]

    async def ask() -> list[list[int]]:
        engine = tiny_engine(build_runtime(model, n_blocks=16, threads=1), menu=menu)
        engine.start()
        try:
            return await asyncio.gather(*(collect(engine.submit(each)) for each in requests))
        finally:
            engine.stop()

    assert asyncio.run(ask()) == [alone(model, each, eos_ids=()) for each in requests]


def test_what_trains_llamas_says_that_it_does_not_take_it(folder: Path) -> None:
    with pytest.raises(LtsRayError, match="is of type 'gemma3n_text'"):
        load_checkpoint(folder)
    assert len(universal_fingerprint(folder)) == 64


@pytest.mark.parametrize("submodel", ["24,24,24,24,0,24,24,24,24"])
def test_a_layer_whose_keys_others_look_at_is_refused_by_name(submodel: str, folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["extract", "--model", str(folder), "-s", submodel, "--output", str(tmp_path / "x")]
    )
    assert isinstance(result.exception, LtsRayError)
    assert "layer 4 cannot be skipped" in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_mix_n_match_may_leave_out_the_layers_that_can_go(folder: Path) -> None:
    config, _ = read_universal(folder)
    space, rng = MixNMatch(config), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(200)]
    assert {layer for each in drawn for layer, width in enumerate(each.widths) if width == 0} == {0, 1, 2, 3, 6, 7, 8}
    for each in drawn:
        assert config.check(each) == each
        assert len(space.features(each)) == 1 + config.n_layer
