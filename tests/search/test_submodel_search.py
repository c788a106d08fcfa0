"""What of a model is searched where nothing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lts_ray.models.matformer.hugging_face.checkpoint import save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.search.submodel_search import default_precisions
from lts_ray.target import Target

CPU = Target(name="cpu", local=True)
GPU = Target(name="gpu", local=True, device="cuda")


def test_what_serving_would_serve_is_searched(
    model_dir: Path, universal: MatFormer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of several precisions the most precise, where parameters cannot tell them apart."""
    where = "lts_ray.search.submodel_search"
    monkeypatch.setattr(f"{where}.kernel_library", object)
    monkeypatch.setattr(f"{where}.DEFAULT_PRECISIONS", ("int8", "int4"))
    assert default_precisions(model_dir, [CPU], "validation_loss") == ("int8", "int4")
    assert default_precisions(model_dir, [CPU], "decoder_params") == ("int8",)
    assert default_precisions(model_dir, [CPU, GPU], "validation_loss") is None
    narrow = MatFormer(replace(universal.config, precisions=("float32", "int8")))
    save_checkpoint(narrow, tmp_path)
    assert default_precisions(tmp_path, [CPU], "validation_loss") == ("int8",)
    monkeypatch.setattr(f"{where}.DEFAULT_PRECISIONS", ("float32",))
    assert default_precisions(model_dir, [CPU], "validation_loss") is None
    monkeypatch.setattr(f"{where}.DEFAULT_PRECISIONS", ("int8", "int4"))
    monkeypatch.setattr(f"{where}.kernel_library", lambda: None)
    assert default_precisions(model_dir, [CPU], "validation_loss") is None
