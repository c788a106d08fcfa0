"""A language model's training on Ray Train: runs it on one or more workers, and shows its progress.

With workers on several nodes, OUTPUT must be on storage that all of them see.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from ray import train as ray_train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from lts_ray.device import device_here
from lts_ray.errors import LtsRayError, StoppedError
from lts_ray.files import check_output
from lts_ray.ray_session import check_cluster, check_room, connected, starts_here
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_memory import check_here
from lts_ray.training.run_settings import RunSettings, TrainingSettings
from lts_ray.training.text_run import check_text, continue_run, prepare_text, start_run, train_text
from lts_ray.training.training_progress import shown_training


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
    if not folder.is_finished:
        check_cluster(address)
    with folder.only_driver(), folder.resumable(command):
        settings = continue_run(folder) if resume else start_run(settings, folder)
        if folder.is_finished:
            return folder.model
        device_here(settings.training.device, what="training.device")  # of a run that goes on, it may be missing here
        if starts_here(address):  # else each worker checks the memory where it is
            check_here(settings)
        prepare_text(settings, folder)
        check_text(settings.training, folder)
        with connected(address), tempfile.TemporaryDirectory(prefix="lts-ray-train-") as storage:
            _fit(settings, folder, storage, command)
        return folder.model


def _fit(settings: RunSettings, folder: RunFolder, storage: str, command: str) -> None:
    scaling = scaling_config(settings.training)
    needed = {"CPU": 1.0, **({"GPU": 1.0} if scaling.use_gpu else {})}
    check_room(settings.training.workers, needed, what=f"training.workers {settings.training.workers}")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"settings": settings.to_json(), "folder": str(folder.path)},
        torch_config=torch_config(settings.training),
        scaling_config=scaling,
        run_config=ray_train.RunConfig(storage_path=storage, name="run"),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # carried to the main thread, which raises it
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with shown_training(folder, settings.training.steps):
        thread.start()
        thread.join()
    if errors:
        raise _readable(errors[0])
    if not folder.is_finished:
        raise StoppedError(f"training stopped early; go on with: {command} --output {folder.path} --resume")


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
    folder, rank, workers = RunFolder(Path(config["folder"])), context.get_world_rank(), context.get_world_size()
    train_text(settings, folder, rank=rank, workers=workers)
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
        return StoppedError(f"Ray went away during training ({type(error).__name__}); go on with --resume")
    return error
