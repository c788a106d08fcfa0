"""The training run of a MatViT on one machine: plain torch. A stopped run goes on from its newest snapshot.

OUTPUT holds settings.json, start/ (the model at step 0), metrics.jsonl, snapshots/ and, in the end, model/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import check_output
from lts_ray.models.checkpoint_folder import CONFIG
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.training.learners.learner import freeze
from lts_ray.training.loop import chosen, train
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.training_progress import shown_training
from lts_ray.vision.image_batches import ImageBatches
from lts_ray.vision.images import ImageData, Images, read_images
from lts_ray.vision.new_vit import new_vit
from lts_ray.vision.vision_settings import VisionSettings
from lts_ray.vision.vit_learner import ViTLearner


@dataclass(frozen=True, kw_only=True)
class ImageLessons:
    batches: ImageBatches
    images: Images
    """All that are held out."""
    device: str
    unit: str = "images"

    @property
    def units(self) -> int:
        return self.batches.batch_size

    def batch(self, step: int, *, rank: int, workers: int) -> Images:
        """There is one worker."""
        batch = self.batches.batch(step)
        return (batch.pinned() if self.device == "cuda" else batch).to(self.device)

    def held_out(self, *, final: bool) -> Images:
        return self.images

    def save(self, checkpoint: Path) -> None:
        """Nothing is needed."""


def train_vit(settings: VisionSettings | None, output: Path) -> Path:
    """Run to the end in the folder `output`; returns the checkpoint's. settings: None goes on with what it holds.

    Raises LtsRayError for unusable settings, images or folder.
    """
    check_output(output)
    folder = RunFolder(output)
    with folder.only_driver(), folder.resumable("lts-ray vit train"):
        return _train(settings, folder)


def _train(settings: VisionSettings | None, folder: RunFolder) -> Path:
    settings, data = _continued(folder) if settings is None else _begun(settings, folder)
    options = settings.training
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if not (_start(folder) / CONFIG).exists():  # stopped before it was written
        save_vit(new_vit(settings, data), _start(folder))
    model = load_vit(_start(folder)).model.to(options.device).train()
    freeze(model, options.train)
    objective = options.objective_of(model.config.granularities)
    batches = ImageBatches(
        images=data.train, batch_size=options.batch_size, seed=options.seed, shift_pixels=settings.images.shift_pixels
    )
    lessons = ImageLessons(batches=batches, images=data.held_out.to(options.device), device=options.device)
    learner = ViTLearner(model=model, objective=objective, passes=options.passes)
    with shown_training(folder, options.steps):
        train(learner, lessons, options, folder, evaluate_first=False)
    return folder.model


def _begun(settings: VisionSettings, folder: RunFolder) -> tuple[VisionSettings, ImageData]:
    """The settings with every automatic choice made; checked, and written down before any work."""
    folder.check_unused(empty=True)
    settings = replace(settings.resolved(), training=chosen(settings.training))
    data = read_images(settings.images.source)
    model = new_vit(settings, data)
    folder.begin({"images_digest": data.digest, **settings.to_json()})
    save_vit(model, _start(folder))
    return settings, data


def _continued(folder: RunFolder) -> tuple[VisionSettings, ImageData]:
    raw = folder.resume()
    digest = raw.pop("images_digest", None)
    settings = VisionSettings.from_json(raw)
    data = read_images(settings.images.source)
    if data.digest != digest:
        raise LtsRayError(f"the images {settings.images.source} have changed since the run began: start anew")
    return settings, data


def _start(folder: RunFolder) -> Path:
    return folder.path / "start"
