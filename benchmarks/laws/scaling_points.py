"""What finished trainings came to: a point for each granularity of a universal run, and one for each plain run.

Runs are those of `lts-ray train` or of a bench. A plain model is the baseline of the granularity that has as many
layers and parameters; where there is no universal run, the widest of one shape is XL and names the others. Only losses
on one text, cut into the same tokens, are put side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from benchmarks.common.training_runs import final_losses
from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import GRANULARITIES
from lts_ray.models.family import Family
from lts_ray.models.matformer.hugging_face.checkpoint import read_config
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings
from lts_ray.training.text_run import continue_run

Kind = Literal["universal", "baseline"]
KINDS: tuple[Kind, ...] = ("universal", "baseline")
Key = tuple[Family, int, int]


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    kind: Kind
    granularity: str
    d_model: int
    params: int
    """Without embeddings."""
    tokens: int
    """That the run trained on."""
    loss: float
    """On held-out text, in nats per token."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    path: Path
    settings: RunSettings
    config: MatFormerConfig
    losses: Mapping[str, float]
    """By granularity."""
    text: tuple[object, ...]
    """What the losses are on; equal where they can be compared."""

    @property
    def is_universal(self) -> bool:
        return len(self.config.granularities) > 1

    @property
    def tokens(self) -> int:
        options = self.settings.training
        return options.steps * options.batch_size * options.sequence_length

    @property
    def shape(self) -> tuple[object, ...]:
        """Of all but the FFN."""
        config = self.config
        return (config.family, config.n_layer, config.d_model, config.n_head, config.n_kv_head)

    @property
    def objective(self) -> tuple[object, ...]:
        options = self.settings.training
        return (options.objective, options.weights, options.probabilities, options.teacher)


def read_points(folders: Sequence[Path]) -> tuple[ScalingPoint, ...]:
    """folders: of runs, or above them at any depth. Raises LtsRayError for runs that cannot be compared."""
    runs = [_read(path) for path in dict.fromkeys(path for folder in folders for path in _runs_in(folder))]
    _check_comparable(runs)
    points = _points(runs)
    return tuple(
        sorted(points, key=lambda point: (KINDS.index(point.kind), point.params, point.granularity, point.loss))
    )


def _runs_in(folder: Path) -> list[Path]:
    paths = sorted(metrics.parent for metrics in folder.rglob("metrics.jsonl"))
    if not paths:
        raise LtsRayError(f"{folder} holds no training: give folders that `lts-ray train` or a bench wrote")
    return paths


def _read(path: Path) -> FinishedRun:
    folder = RunFolder(path)
    settings = continue_run(folder)
    if not folder.is_finished:
        raise LtsRayError(f"the training in {path} is not finished: go on with it, or leave it out")
    if settings.architecture is not None or settings.model.independent:
        raise LtsRayError(f"{path} trained no universal model and no plain one: leave it out")
    config, _ = read_config(folder.model)
    data, options = settings.data, settings.training
    tokenizer = sha256((folder.model / "tokenizer.json").read_bytes()).digest()
    return FinishedRun(
        path=path,
        settings=settings,
        config=config,
        losses=final_losses(folder),
        text=(
            *(data.corpus, data.validation_fraction, data.max_documents),
            *(options.sequence_length, options.final_evaluation_blocks, tokenizer),
        ),
    )


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    universal = [run for run in runs if run.is_universal]
    for run in runs:
        if run.text != runs[0].text:
            raise LtsRayError(
                f"the losses of {run.path} and {runs[0].path} are on different text or tokens: fit them apart"
            )
        if run.is_universal and run.objective != universal[0].objective:
            raise LtsRayError(f"{run.path} and {universal[0].path} had different objectives: fit them apart")


def _points(runs: Sequence[FinishedRun]) -> list[ScalingPoint]:
    """A universal run names its granularities; plain ones of a size without such a run are named by the widest's."""
    places: dict[Key, tuple[str, int]] = {}
    for run in runs:
        if run.is_universal:
            places |= _places(run.config)
    alone = [run for run in runs if not run.is_universal and _key(run.config, run.config.universal) not in places]
    universal = {run.shape for run in runs if run.is_universal}
    for shape in dict.fromkeys(run.shape for run in alone if run.shape not in universal):
        widest = max((run.config for run in alone if run.shape == shape), key=lambda config: config.decoder_params())
        places |= _places(replace(widest, granularities=dict(GRANULARITIES)))
    points = []
    for run in runs:
        for name, submodel in run.config.trained.items():
            place = places.get(_key(run.config, submodel))
            if place is None:
                raise LtsRayError(
                    f"{run.path} has {run.config.decoder_params():,} parameters without embeddings, as no granularity "
                    "of the widest run of its size has: leave it out"
                )
            points.append(
                ScalingPoint(
                    kind="universal" if run.is_universal else "baseline",
                    granularity=name if run.is_universal else place[0],
                    d_model=place[1],
                    params=run.config.decoder_params(submodel),
                    tokens=run.tokens,
                    loss=run.losses[name],
                )
            )
    return points


def _places(config: MatFormerConfig) -> dict[Key, tuple[str, int]]:
    """Whose plain model a run is: the granularity, and the d_model of all of its size."""
    return {_key(config, submodel): (name, config.d_model) for name, submodel in config.trained.items()}


def _key(config: MatFormerConfig, submodel: Submodel) -> Key:
    """What a granularity and the plain model of it share, whichever axes are nested."""
    return (config.family, config.n_layer, config.decoder_params(submodel))
