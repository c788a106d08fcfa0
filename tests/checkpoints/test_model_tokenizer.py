from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.cli.main import main
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness.harness_model import HarnessModel
from lts_ray.evaluation.harness.harness_subjects import load_subjects
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.submodel_search import submodel_job
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from serve.serve_args import ServeArgs


@pytest.fixture
def too_many(model_dir: Path, tmp_path: Path) -> Path:
    """The model has 300 embeddings, its tokenizer a token more, which was added."""
    folder = tmp_path / "model"
    copytree(model_dir, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.backend.add_tokens(["<new>"])
    save_tokenizer(tokenizer, folder)
    return folder


VERBS = {
    "evaluate": ["evaluate", "--model", "MODEL", "--text", "TEXT"],
    "generate": ["generate", "--model", "MODEL", "--prompt", "the <new> nation"],
    "measure": ["measure", "--model", "MODEL"],
    "extract": ["extract", "--model", "MODEL", "--submodel", "S", "--output", "OUT"],
    "elasticize": ["elasticize", "--model", "MODEL", "--output", "OUT", "--corpus", "TEXT"],
    "train": ["train", "--init-from", "MODEL", "--output", "OUT", "--config", "SHORT"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_tokenizer_with_more_tokens_than_embeddings_is_one_line_from_every_verb(
    too_many: Path,
    tmp_path: Path,
    verb: str,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"MODEL": str(too_many), "TEXT": str(texts / "*.txt"), "OUT": str(tmp_path / "out")}
    (tmp_path / "short.yaml").write_text("training: {sequence_length: 16}")
    places["SHORT"] = str(tmp_path / "short.yaml")
    monkeypatch.setattr("sys.argv", ["lts-ray", *(places.get(word, word) for word in VERBS[verb])])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2, err
    assert "has 301 tokens, but the model only 300 embeddings" in err
    assert "\n" not in err.strip()
    assert out == ""
    assert not (tmp_path / "out").exists()


USERS: dict[str, Callable[[Path], object]] = {
    "serve": lambda folder: ServeArgs(model=folder).check(),
    "search": lambda folder: submodel_job(
        model_dir=folder,
        space="mix-n-match",
        targets=(),
        settings=SearchSettings(evaluations=1, seed=0, quality="decoder_params"),
        validation_blocks=None,
    ),
    "tasks": lambda folder: load_subjects(folder, ["S"]),
    "lm_eval": lambda folder: HarnessModel.create_from_arg_obj({"model": str(folder)}),
}


@pytest.mark.parametrize("user", USERS)
def test_it_is_refused_by_all_that_load_a_model(too_many: Path, user: str) -> None:
    with pytest.raises(LtsRayError, match="has 301 tokens, but the model only 300 embeddings"):
        USERS[user](too_many)


def test_embeddings_without_a_token_are_no_fault(model_dir: Path, tmp_path: Path) -> None:
    """Padded to a round number, as many models' are."""
    assert load_model_tokenizer(model_dir, vocab_size=384).vocab_size == 300
    assert load_model_tokenizer(model_dir, vocab_size=300).vocab_size == 300


def test_the_highest_id_counts_not_how_many_there_are(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    save_tokenizer(load_tokenizer(model_dir), tmp_path)
    written = json.loads(path.read_text())
    name, last = next(each for each in written["model"]["vocab"].items() if each[1] == 299)
    written["model"]["vocab"][name] = last + 100
    written["model"]["merges"] = [pair for pair in written["model"]["merges"] if "".join(pair) != name]
    path.write_text(json.dumps(written))
    with pytest.raises(LtsRayError, match="has 400 tokens"):
        load_model_tokenizer(tmp_path, vocab_size=300)
