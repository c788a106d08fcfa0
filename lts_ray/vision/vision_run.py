"""The training run of a MatViT on one machine: plain torch. A stopped run goes on from its newest snapshot.

OUTPUT holds settings.json, start/ (the model at step 0), metrics.jsonl, snapshots/ and, in the end, model/.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json, write_json
from lts_ray.models.checkpoint_folder import CONFIG
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.training.learners.learner import freeze
from lts_ray.training.loop import chosen, make_optimizer, when_done
from lts_ray.training.run_folder import RunFolder, exclusive, forget_after
from lts_ray.training.run_settings import TrainingSettings
from lts_ray.training.snapshot import load_snapshot, save_snapshot, snapshots
from lts_ray.vision.accuracy import ImageQuality, image_quality
from lts_ray.vision.image_batches import ImageBatches
from lts_ray.vision.images import ImageData, Images, read_images
from lts_ray.vision.learning import propagate
from lts_ray.vision.new_vit import new_vit
from lts_ray.vision.vision_settings import VisionSettings

SCHEMA = 1
Show = Callable[[int, Mapping[str, float]], None]
"""Told the steps that are done, and the losses of the last."""


def train(settings: VisionSettings | None, output: Path) -> Path:
    """Run to the end in the folder `output`; returns the checkpoint's. settings: None goes on with what it holds.

    Raises LtsRayError for unusable settings, images or folder.
    """
    if output.exists() and not output.is_dir():
        raise LtsRayError(f"{output} is a file; choose another --output")
    folder = RunFolder(output)
    if settings is None:
        settings, digest = _continued(folder)
        data = read_images(settings.images.source)
        if data.digest != digest:
            raise LtsRayError(f"the images {settings.images.source} have changed since the run began: start anew")
    else:
        settings, data = _begun(settings, folder)
    if settings.training.threads is not None:
        torch.set_num_threads(settings.training.threads)
    with exclusive(folder.path / ".lock"), _bar(settings.training.steps) as show:
        _run(settings, data, folder, show)
    return folder.model


def _begun(settings: VisionSettings, folder: RunFolder) -> tuple[VisionSettings, ImageData]:
    """The settings with every automatic choice made; checked, and written down before any work."""
    if folder.path.exists() and any(folder.path.iterdir()):
        raise LtsRayError(f"{folder.path} is not empty: add --resume to go on with it, or choose another --output")
    settings = replace(settings.resolved(), training=chosen(settings.training))
    data = read_images(settings.images.source)
    model = new_vit(settings, data)
    write_json(folder.settings, {"schema": SCHEMA, "images_digest": data.digest, **settings.to_json()})
    save_vit(model, _start(folder))
    return settings, data


def _continued(folder: RunFolder) -> tuple[VisionSettings, str]:
    if not folder.settings.exists():
        raise LtsRayError(f"{folder.path} holds nothing to resume: leave --resume out to start")
    raw = read_json(folder.settings, what="settings")
    if raw.pop("schema", None) != SCHEMA:
        raise LtsRayError(f"{folder.settings} is of another version of lts-ray; start anew")
    digest = str(raw.pop("images_digest", ""))
    return VisionSettings.from_json(raw), digest


def _start(folder: RunFolder) -> Path:
    return folder.path / "start"


def _run(settings: VisionSettings, data: ImageData, folder: RunFolder, show: Show) -> None:
    options = settings.training
    device = torch.device(options.device)
    if not (_start(folder) / CONFIG).exists():  # stopped before it was written
        save_vit(new_vit(settings, data), _start(folder))
    model = load_vit(_start(folder)).model.to(device).train()
    freeze(model, options.train)
    objective = options.objective_of(model.config.granularities)
    optimizer = make_optimizer(model, options)
    batches = ImageBatches(
        images=data.train,
        batch_size=options.batch_size,
        seed=options.seed,
        shift_pixels=settings.images.shift_pixels,
    )
    held_out = _on(data.held_out, device)
    existing = snapshots(folder.snapshots)
    step = load_snapshot(existing[-1], model, optimizer) if existing else 0
    forget_after(folder.metrics, step)
    last_time, last_step = time.perf_counter(), step
    while step < options.steps:
        _set_learning_rate(optimizer, options, step)
        optimizer.zero_grad(set_to_none=True)
        losses = propagate(
            model,
            _on(batches.batch(step), device),
            step,
            objective,
            passes=options.passes,
            precision=options.precision,
        )
        nn.utils.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], options.gradient_clip)
        optimizer.step()
        step += 1
        show(step, losses)
        if step % options.log_every == 0 or step == options.steps:
            now = when_done(device, time.perf_counter)
            rate = (step - last_step) * options.batch_size / (now - last_time)
            record = {
                "loss": losses,
                "learning_rate": options.learning_rate_at(step - 1),
                "images_per_s": round(rate, 1),
            }
            append_json_line(folder.metrics, {"step": step, **record})
            last_time, last_step = now, step
        if step % options.evaluate_every == 0 and step < options.steps:
            _record(image_quality(model, list(model.config.trained), held_out), step, folder)
            last_time = time.perf_counter()
        if step % options.checkpoint_every == 0 or step == options.steps:
            save_snapshot(folder.snapshots, step, model, optimizer)
    _finish(model, held_out, options, folder)


def _finish(model: MatViT, held_out: Images, options: TrainingSettings, folder: RunFolder) -> None:
    """Write the checkpoint, then evaluate what was written: the saved numbers are those of the saved weights."""
    dtype: torch.dtype = getattr(torch, options.save_dtype)
    model = model.cpu()
    save_vit(model, folder.model, dtype=dtype)
    saved = load_vit(folder.model).model
    results = image_quality(saved, list(saved.config.trained), _on(held_out, torch.device("cpu")))
    save_vit(saved, folder.model, dtype=dtype, accuracy={each.name: each.accuracy for each in results})
    _record(results, options.steps, folder, final=True)


def _record(results: list[ImageQuality], step: int, folder: RunFolder, *, final: bool = False) -> None:
    found = {
        "validation_accuracy": {each.name: each.accuracy for each in results},
        "validation_loss": {each.name: each.loss for each in results},
    }
    append_json_line(folder.metrics, {"step": step, **found, **({"final": True} if final else {})})


def _set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainingSettings, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate_at(step)


@contextlib.contextmanager
def _bar(steps: int) -> Iterator[Show]:
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[losses]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("training", total=steps, losses="")

        def show(step: int, losses: Mapping[str, float]) -> None:
            shown.update(task, completed=step, losses=" ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))

        yield show


def _on(images: Images, device: torch.device) -> Images:
    return Images(images.pixels.to(device), images.labels.to(device))
