"""What finished trainings came to: a point for each granularity of a universal run, and one for each plain run.

Runs are those of `lts-ray train` or of a bench. Those of one shape but for the FFN are one size; its widest model is
XL, and a plain model is the baseline of the granularity that has as many parameters. Only losses on one text, cut into
the same tokens, are put side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.models.checkpoint import read_config
from lts_ray.models.config import MatFormerConfig
from lts_ray.models.elastic import GRANULARITIES
from lts_ray.training.loop import RunFolder
from lts_ray.training.settings import RunSettings
from lts_ray.training.trainer import continue_run, is_finished

Kind = Literal["universal", "baseline"]
KINDS: tuple[Kind, ...] = ("universal", "baseline")


@dataclass(frozen=True, kw_only=True)
class Point:
    """params: without embeddings. tokens: that the run trained on. loss: on held-out text, in nats per token."""

    kind: Kind
    granularity: str
    d_model: int
    params: int
    tokens: int
    loss: float

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "granularity": self.granularity,
            "d_model": self.d_model,
            "params": self.params,
            "tokens": self.tokens,
            "loss": self.loss,
        }


@dataclass(frozen=True, kw_only=True)
class Text:
    """What losses are on; equal where they can be compared."""

    corpus: str
    validation_fraction: float
    max_documents: int | None
    sequence_length: int
    blocks: int | None
    tokenizer: str

    @classmethod
    def of(cls, settings: RunSettings, model: Path) -> Text:
        return cls(
            corpus=settings.data.corpus,
            validation_fraction=settings.data.validation_fraction,
            max_documents=settings.data.max_documents,
            sequence_length=settings.training.sequence_length,
            blocks=settings.training.final_evaluation_blocks,
            tokenizer=sha256((model / "tokenizer.json").read_bytes()).hexdigest()[:12],
        )


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """losses: by granularity."""

    path: Path
    settings: RunSettings
    config: MatFormerConfig
    losses: dict[str, float]
    text: Text

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
        return (config.family, config.d_model, config.n_layer, config.n_head, config.n_kv_head)

    @property
    def objective(self) -> tuple[object, ...]:
        options = self.settings.training
        return (options.objective, options.weights, options.probabilities, options.teacher)


def read_points(folders: Sequence[Path]) -> tuple[Point, ...]:
    """folders: of runs, or above them at any depth. Raises LtsRayError for runs that cannot be compared."""
    runs = [_read(each) for each in dict.fromkeys(run for folder in folders for run in _runs_in(folder))]
    _check_comparable(runs)
    sizes = {run.shape: [each for each in runs if each.shape == run.shape] for run in runs}
    points = [point for size in sizes.values() for point in _points(size)]
    return tuple(sorted(points, key=lambda each: (KINDS.index(each.kind), each.params, each.granularity, each.loss)))


def _runs_in(folder: Path) -> list[Path]:
    found = sorted(each.parent for each in folder.rglob("metrics.jsonl"))
    if not found:
        raise LtsRayError(f"{folder} holds no training: give folders that `lts-ray train` or a bench wrote")
    return found


def _read(path: Path) -> FinishedRun:
    folder = RunFolder(path)
    settings = continue_run(folder)
    if not is_finished(folder):
        raise LtsRayError(f"the training in {path} is not finished: go on with it, or leave it out")
    if settings.architecture is not None or settings.model.independent:
        raise LtsRayError(f"{path} trained no universal model and no plain one: leave it out")
    *_, final = (each for each in read_json_lines(folder.metrics, what="metrics") if each.get("final"))
    config, _ = read_config(folder.model)
    return FinishedRun(
        path=path,
        settings=settings,
        config=config,
        losses=final["validation_loss"],
        text=Text.of(settings, folder.model),
    )


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for each in runs:
        if each.text != first.text:
            raise LtsRayError(
                f"the losses of {each.path} and {first.path} are on different text or tokens: fit them apart"
            )
    universal = [each for each in runs if each.is_universal]
    for each in universal:
        if each.objective != universal[0].objective:
            raise LtsRayError(f"{each.path} and {universal[0].path} had different objectives: fit them apart")


def _points(runs: Sequence[FinishedRun]) -> list[Point]:
    """runs: of one size."""
    widest = max(runs, key=lambda each: (each.config.decoder_params(), each.is_universal)).config
    if len(widest.granularities) == 1:
        widest = replace(widest, granularities=dict(GRANULARITIES))
    names = {widest.decoder_params(submodel): name for name, submodel in widest.trained.items()}
    found = []
    for run in runs:
        kind: Kind = "universal" if run.is_universal else "baseline"
        for name, submodel in run.config.trained.items():
            params = run.config.decoder_params(submodel)
            if params not in names or (run.is_universal and names[params] != name):
                raise LtsRayError(
                    f"{run.path} has {params:,} parameters without embeddings, as no granularity of its size's widest "
                    f"run has ({', '.join(f'{each}: {size:,}' for size, each in names.items())}): leave it out"
                )
            found.append(
                Point(
                    kind=kind,
                    granularity=names[params],
                    d_model=run.config.d_model,
                    params=params,
                    tokens=run.tokens,
                    loss=run.losses[name],
                )
            )
    return found
