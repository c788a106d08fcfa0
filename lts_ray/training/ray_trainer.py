"""A training run on Ray Train: prepares the data, runs the loop on one or more workers, and shows its progress.

OUTPUT holds settings.json, data/, metrics.jsonl, snapshots/ and, at the end, model/. With workers on several nodes it
must be on storage that all of them see.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import train as ray_train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, read_json_lines, replacing, write_json
from lts_ray.ray_session import connected
from lts_ray.text.batches import Tokens, split_documents, tokenize
from lts_ray.text.corpus import check_corpus, read_corpus
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.loop import chosen, device_named, train
from lts_ray.training.new_learner import check_start
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings, TrainingSettings
from lts_ray.training.training_progress import TrainingProgress

SCHEMA = 1
POLL_S = 0.5


def run_training(
    settings: RunSettings,
    output: Path,
    *,
    resume: bool = False,
    address: str | None = None,
    command: str = "lts-ray train",
) -> Path:
    """Train, and return the folder of the finished checkpoint.

    resume: go on with the run in `output`, with the settings it was started with. A finished run is not done again.
    command: what the user is told to go on with. Raises LtsRayError for unusable settings, text or folders.
    """
    check_output(output)
    folder = RunFolder(output.resolve())
    settings = continue_run(folder) if resume else start_run(settings, folder)
    if is_finished(folder):
        return folder.model
    device_named(settings.training.device)  # of a run that goes on, it may be missing here
    prepare(settings, folder)
    with connected(address), tempfile.TemporaryDirectory(prefix="lts-ray-train-") as storage:
        _fit(settings, folder, storage, command)
    return folder.model


def check_output(path: Path) -> None:
    """Raises LtsRayError where no folder can be made, or is."""
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise LtsRayError(f"{each} is a file, not a folder: choose another --output")


def start_run(settings: RunSettings, folder: RunFolder) -> RunSettings:
    """Write the run's settings with every automatic choice made, so that resuming makes the same ones."""
    if folder.settings.exists():
        raise LtsRayError(
            f"{folder.path} holds a run already: add --resume to go on with it, or choose another --output"
        )
    options = chosen(settings.training)
    resolved = replace(
        settings,
        training=replace(
            options,
            threads=options.threads or max(1, (os.cpu_count() or 1) // options.workers),
            teacher=_absolute(options.teacher),
        ),
        init_from=_absolute(settings.init_from),
    )
    check_start(resolved)
    if not is_prepared(folder):
        check_corpus(resolved.data.corpus)
    write_json(folder.settings, {"schema": SCHEMA, **resolved.to_json()})
    return resolved


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def continue_run(folder: RunFolder) -> RunSettings:
    if not folder.settings.exists():
        raise LtsRayError(f"{folder.path} holds no run to resume: leave --resume out to start one")
    raw = read_json(folder.settings, what="run settings")
    if raw.pop("schema", None) != SCHEMA:
        raise LtsRayError(f"{folder.settings} is of another version of lts-ray; start a new run")
    return RunSettings.from_json(raw)


def is_finished(folder: RunFolder) -> bool:
    return any(record.get("final") for record in read_json_lines(folder.metrics, what="metrics"))


def prepare(settings: RunSettings, folder: RunFolder) -> None:
    """Tokenize the corpus into the run's folder, once."""
    if is_prepared(folder):
        return
    documents = read_corpus(settings.data.corpus, max_documents=settings.data.max_documents)
    training, held_out = split_documents(documents, settings.data.validation_fraction)
    source = settings.data.tokenizer or settings.init_from
    tokenizer = (
        train_tokenizer((each.text for each in training), vocab_size=settings.vocab_size)
        if source is None
        else load_tokenizer(Path(source))
    )
    save_tokenizer(tokenizer, folder.data)
    _save(folder.data / "train.npy", tokenize(training, tokenizer))
    _save(_validation(folder), tokenize(held_out, tokenizer))


def is_prepared(folder: RunFolder) -> bool:
    return _validation(folder).exists()


def _validation(folder: RunFolder) -> Path:
    """Comes last, and marks the others done."""
    return folder.data / "validation.npy"


def _save(path: Path, tokens: Tokens) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens)


def _fit(settings: RunSettings, folder: RunFolder, storage: str, command: str) -> None:
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"settings": settings.to_json(), "folder": str(folder.path)},
        torch_config=torch_config(settings.training),
        scaling_config=scaling_config(settings.training),
        run_config=ray_train.RunConfig(storage_path=storage, name="run"),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # carried to the main thread, which raises it
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with TrainingProgress(settings.training.steps) as progress:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            progress.show(read_json_lines(folder.metrics, what="metrics"))
    if errors:
        raise _readable(errors[0])
    if not is_finished(folder):
        raise LtsRayError(f"training stopped early; go on with: {command} --output {folder.path} --resume")


def torch_config(options: TrainingSettings) -> TorchConfig:
    """How the workers average gradients. options: with the device chosen."""
    return TorchConfig(backend="nccl" if options.device == "cuda" else "gloo")


def scaling_config(options: TrainingSettings) -> ray_train.ScalingConfig:
    """Workers, with a GPU each where they train on GPUs: Ray makes it the worker's current one."""
    return ray_train.ScalingConfig(
        num_workers=options.workers, resources_per_worker={"CPU": 1}, use_gpu=options.device == "cuda"
    )


def _worker(config: dict[str, Any]) -> None:
    """What runs in each Ray Train worker. Ray sets OMP_NUM_THREADS, so the threads are set here."""
    settings = RunSettings.from_json(config["settings"])
    torch.set_num_threads(settings.training.threads or 1)
    keep_freed_memory()
    context = ray_train.get_context()
    started = time.perf_counter()
    train(settings, RunFolder(Path(config["folder"])), rank=context.get_world_rank(), workers=context.get_world_size())
    ray_train.report({"seconds": time.perf_counter() - started})


def _readable(error: BaseException) -> BaseException:
    """Our own one-line error out of what Ray Train wraps around it; anything else stays as it is."""
    seen: BaseException | None = error
    while seen is not None:
        failures = getattr(seen, "worker_failures", {})
        for inner in failures.values():
            if isinstance(inner, LtsRayError):
                return inner
            cause = getattr(inner, "cause", None)
            if isinstance(cause, LtsRayError):
                return cause
        if isinstance(seen, LtsRayError):
            return seen
        seen = seen.__cause__
    if isinstance(error, RayError):
        return LtsRayError(f"Ray went away during training ({type(error).__name__}); go on with --resume")
    return error
