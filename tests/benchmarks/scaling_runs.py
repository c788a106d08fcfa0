"""Folders as finished trainings leave them, without a training: settings, metrics and the model's configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.laws.scaling_law import ScalingLaw
from lts_ray.files import append_json_line, write_json, write_text
from lts_ray.models.matformer.hugging_face.checkpoint import hugging_face_config
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings

UNIVERSAL = ScalingLaw(a=20.0, b=-0.2, c=1.5)
BASELINE = ScalingLaw(a=25.0, b=-0.25, c=1.75)
WIDTHS = {"S": 8, "M": 16, "L": 32, "XL": 64}


def settings(d_model: int, *, d_ff: int = 64, plain: bool = False) -> RunSettings:
    """Of a model that no test builds; its steps are its d_model."""
    model = ModelSettings(
        vocab_size=64, d_model=d_model, n_head=2, n_kv_head=1, n_layer=2, d_ff=d_ff, context_length=32,
        granularities={"XL": 1.0} if plain else None,
    )  # fmt: skip
    return RunSettings(model=model, training=TrainingSettings(steps=d_model, sequence_length=32, batch_size=2))


def write_run(
    path: Path,
    run: RunSettings,
    *,
    law: ScalingLaw,
    finished: bool = True,
    tokens: str = "one",
    config: MatFormerConfig | None = None,
) -> Path:
    """Its losses are the law's. config: of its model, where it started from one."""
    config = config or run.model.config(run.model.vocab_size)
    losses = {name: law.loss_at(config.decoder_params(each)) for name, each in config.trained.items()}
    folder = RunFolder(path)
    folder.model.mkdir(parents=True)
    folder.begin(run.to_json())
    append_json_line(folder.metrics, {"step": 0, "validation_loss": dict.fromkeys(losses, 9.0)})
    final = {"step": run.training.steps, "validation_loss": losses, "final": True}
    append_json_line(folder.metrics, final if finished else {**final, "final": False})
    write_json(folder.model / "config.json", hugging_face_config(config, torch.float32, losses))
    write_text(folder.model / "tokenizer.json", tokens)
    return path


def write_size(folder: Path, d_model: int) -> Path:
    """A universal run and the four plain ones, whose folders' names say nothing."""
    write_run(folder / "0", settings(d_model), law=UNIVERSAL)
    for place, width in enumerate(WIDTHS.values(), start=1):
        write_run(folder / str(place), settings(d_model, d_ff=width, plain=True), law=BASELINE)
    return folder


def with_training(run: RunSettings, **changes: object) -> RunSettings:
    return replace(run, training=replace(run.training, **changes))  # type: ignore[arg-type]
