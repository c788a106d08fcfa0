"""The way from an existing checkpoint to a universal model, in stages that a stopped run does not do again.

OUTPUT holds original/ (where the source is a GGUF file), reordered/ (importance found, nothing trained yet), what a
training run leaves, with the finished checkpoint in model/, and comparison.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.console import progress_bars
from lts_ray.device import autocast, device_here
from lts_ray.elasticize.comparison import ComparisonRow, compare_stage
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.elasticize.gguf import check_gguf, convert_gguf
from lts_ray.elasticize.importance import evenly, reorder_by_importance
from lts_ray.errors import LtsRayError
from lts_ray.files import check_output, write_json
from lts_ray.models.checkpoint_folder import CONFIG
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, read_config, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.ray_session import check_cluster, starts_here
from lts_ray.record import record_json
from lts_ray.text.batches import blocks_of
from lts_ray.text.corpus import check_corpus
from lts_ray.text.held_out_tokens import HeldOutTokens
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from lts_ray.training.loop import chosen
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_memory import check_here
from lts_ray.training.run_settings import RunSettings
from lts_ray.training.text_run import check_text, prepare_text

SCHEMA = 1
REORDERED = "reordered"


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """What a run made."""

    model: Path
    """The finished checkpoint's folder."""
    rows: list[ComparisonRow]
    """What each stage did for each granularity."""


def elasticize(settings: ElasticizeSettings | None, output: Path, *, address: str | None = None) -> Elastic:
    """Make a checkpoint elastic in the folder `output`; settings: None goes on with what the folder holds.

    Raises LtsRayError for an unusable source, text, settings or folder.
    """
    check_output(output)
    folder = RunFolder(output.resolve(), settings_name="elasticize.json")  # the training's settings stand beside it
    if not folder.is_finished:
        check_cluster(address)
    with folder.only_driver(), folder.resumable("lts-ray elasticize"):
        return _elasticize(settings, folder, address)


def _elasticize(settings: ElasticizeSettings | None, folder: RunFolder, address: str | None) -> Elastic:
    settings = ElasticizeSettings.from_json(folder.resume()) if settings is None else _begun(settings, folder, address)
    reordered = _reordered(settings, folder)
    if not settings.fine_tune:
        return Elastic(model=reordered, rows=_compared(settings, folder))
    original = _original(settings, folder)
    model = run_training(
        settings.run(start=str(reordered), teacher=str(original)),
        folder.path,
        resume=RunFolder(folder.path).settings.exists(),
        address=address,
        command="lts-ray elasticize",
    )
    return Elastic(model=model, rows=_compared(settings, folder))


def _begun(settings: ElasticizeSettings, folder: RunFolder, address: str | None) -> ElasticizeSettings:
    """The settings with every automatic choice made; checked, and written down before any work."""
    folder.check_unused(empty=True)
    source = Path(settings.source).resolve()
    settings = replace(settings, source=str(source), training=chosen(settings.training))
    if _is_gguf(source):
        check_gguf(source)
    else:
        _check(settings, source)
        if settings.fine_tune and starts_here(address):
            check_here(settings.run(start=str(source), teacher=str(source)))
    check_corpus(settings.data.corpus)
    folder.begin(record_json(settings))
    return settings


def _check(settings: ElasticizeSettings, folder: Path) -> None:
    config, _ = read_config(folder)
    if len(set(config.widths)) > 1:
        raise LtsRayError(f"{folder} has layers of different width: it was extracted, and is not made elastic again")
    load_model_tokenizer(folder, vocab_size=config.vocab_size)
    if settings.training.sequence_length > config.context_length:
        raise LtsRayError(
            f"training.sequence_length {settings.training.sequence_length} is longer than the model's context, "
            f"{config.context_length}"
        )


def _is_gguf(source: Path) -> bool:
    return source.suffix == ".gguf"


def _original(settings: ElasticizeSettings, folder: RunFolder) -> Path:
    """The folder of the model as it came; a GGUF file is converted once."""
    source = Path(settings.source)
    if not _is_gguf(source):
        return source
    converted = folder.path / "original"
    if not converted.exists():
        with progress_bars() as show:
            show("converting the GGUF file", 0, 1)
            convert_gguf(source, converted)
        _check(settings, converted)
    return converted


def _reordered(settings: ElasticizeSettings, folder: RunFolder) -> Path:
    """The folder that training starts from."""
    reordered = folder.path / REORDERED
    if (reordered / CONFIG).exists():  # written last: the checkpoint is whole
        return reordered
    original = _original(settings, folder)
    prepare_text(RunSettings(data=settings.data, init_from=str(original)), folder)
    if settings.fine_tune:
        check_text(settings.training, folder)
    model = _load(settings, original)
    if settings.by_importance:
        tokens = np.load(folder.data / "train.npy", mmap_mode="r")
        blocks = blocks_of(tokens, length=settings.training.sequence_length)
        blocks = blocks[evenly(len(blocks), settings.calibration_blocks)]
        total = len(blocks) * len(model.config.trained)
        done = count(1)
        with progress_bars() as show, autocast(model.weight.device, settings.training.precision):
            reorder_by_importance(model, blocks, progress=lambda: show("importance of neurons", next(done), total))
    save_tokenizer(load_tokenizer(original), reordered)
    held_out = HeldOutTokens(tokens=np.load(folder.data / "validation.npy"), corpus=settings.data.corpus)
    held_out.save(reordered)
    save_checkpoint(model, reordered)
    return reordered


def _load(settings: ElasticizeSettings, path: Path) -> MatFormer:
    """With the granularities that are to be trained, where they are."""
    device = device_here(settings.training.device, what="training.device")  # of a run that goes on, it may be missing
    model = load_checkpoint(path, device=device).model
    model.config = replace(model.config, granularities=dict(settings.granularities))
    return model


def _compared(settings: ElasticizeSettings, folder: RunFolder) -> list[ComparisonRow]:
    """Every stage on the same held-out text; written to comparison.json."""
    blocks = blocks_of(np.load(folder.data / "validation.npy"), length=settings.training.sequence_length)
    blocks = blocks[evenly(len(blocks), settings.report_blocks)]
    original = _load(settings, _original(settings, folder))
    stages = {"prefix": original}
    if settings.by_importance:
        stages["importance"] = _load(settings, folder.path / REORDERED)
    if settings.fine_tune:
        stages["trained"] = _load(settings, folder.model)
    with progress_bars() as show:
        rows = [
            row
            for stage, model in stages.items()
            for row in compare_stage(
                stage, model, original, blocks, settings.training.precision, partial(show, f"comparing ({stage})")
            )
        ]
    write_json(folder.path / "comparison.json", {"schema": SCHEMA, "rows": [row.to_json() for row in rows]})
    return rows
