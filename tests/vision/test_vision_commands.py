"""`lts-ray vit` at the terminal: the way from training to retrieval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lts_ray.cli.vit import app
from lts_ray.errors import LtsRayError
from lts_ray.models.vit.vit_checkpoint import save_vit
from tests.vision.make import make_vit, write_npz


def vit(*arguments: str | int | Path) -> str:
    """What the command prints. Raises what it raises."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def rows(text: str) -> Sequence[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    write_npz(tmp_path / "images" / "a.npz")
    return tmp_path / "images"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_vit(make_vit(), tmp_path / "model")
    return tmp_path / "model"


def test_training_says_where_its_results_are_and_goes_on(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    said = vit("train", "-i", images, "-o", output, "--steps", 3, "--alone", "S", "--seed", 4)
    assert "model" in said
    assert str(output / "metrics.jsonl") in said
    found = json.loads((output / "settings.json").read_text(encoding="utf-8"))
    assert (found["model"]["d_ff"], found["training"]["seed"], found["training"]["steps"]) == (32, 4, 3)
    assert "model" in vit("train", "-o", output, "--resume")
    with pytest.raises(LtsRayError, match="give only --output"):
        vit("train", "-o", output, "--resume", "--steps", 9)


def test_evaluate_prints_a_record_for_each_submodel(model: Path, images: Path) -> None:
    found = rows(vit("evaluate", "-m", model, "-i", images, "-s", "S", "-s", "4,9,32", "--json"))
    assert [each["widths"] for each in found] == [[4, 4, 4], [4, 9, 32]]
    assert [each["submodel"] for each in rows(vit("evaluate", "-m", model, "-i", images, "--json"))] == [
        "S", "M", "L", "XL",
    ]  # fmt: skip
    assert "accuracy" in vit("evaluate", "-m", model, "-i", images)


def test_extract_says_who_loads_it(model: Path, tmp_path: Path) -> None:
    assert "plain transformers loads it" in vit("extract", "-m", model, "-s", "M", "-o", tmp_path / "m")
    assert "only lts-ray loads it" in vit("extract", "-m", model, "-s", "4,9,32", "-o", tmp_path / "x")


def test_retrieve_is_a_table_of_queries_by_index(model: Path, images: Path) -> None:
    found = rows(vit("retrieve", "-m", model, "-i", images, "-q", "S", "-q", "M", "--index", "XL", "--json"))
    assert [(each["query"], each["index"]) for each in found] == [("S", "XL"), ("M", "XL")]
    shown = vit("retrieve", "-m", model, "-i", images, "--distance", "l2")
    assert all(f"index {name}" in shown for name in ("S", "M", "L", "XL"))


def test_images_that_do_not_fit_are_one_line(model: Path) -> None:
    with pytest.raises(LtsRayError, match=r"are of \(channels, height, width\) \(1, 8, 8\); the model takes"):
        vit("evaluate", "-m", model)
