"""The trainings of a bench: one after the other in this process, each in a folder of its own, on tokens they share.

Killed at any time, the same call goes on: finished runs are kept, and an unfinished one resumes from its snapshot.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.files import check_output, read_json_lines
from lts_ray.timing import torch_threads
from lts_ray.training.loop import chosen
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings
from lts_ray.training.text_run import continue_run, prepare_text, start_run, train_text
from lts_ray.training.training_progress import shown_training


class SharedData(RunFolder):
    """A run whose tokens and tokenizer lie beside it."""

    @property
    def data(self) -> Path:
        return self.path.parent / "data"


def train_runs(runs: Mapping[str, RunSettings], folder: Path) -> Mapping[str, RunFolder]:
    """Train each of `runs`, by name, in `folder`; they have one corpus and one tokenizer.

    Raises LtsRayError for a folder that is a file and a corpus that cannot be read, before anything is written, and
    where the folder holds runs that were started otherwise.
    """
    check_output(folder)
    folders = {name: SharedData(folder / name) for name in runs}
    if not any(folder.glob("*/metrics.jsonl")):  # none has begun: the text may have been too little, and may be another
        for run in folders.values():
            run.settings.unlink(missing_ok=True)
        (folder / "data" / "validation.npy").unlink(missing_ok=True)
    first = next(iter(runs))
    prepare_text(runs[first], folders[first])
    for place, (name, settings) in enumerate(runs.items(), start=1):
        run = folders[name]
        resolved = _begun(settings, run)
        if run.is_finished:
            continue
        print(f"{folder.name}, {name} ({place} of {len(runs)}): {resolved.training.steps} steps")
        with torch_threads(resolved.training.threads), shown_training(run, resolved.training.steps):
            train_text(resolved, run)
        shutil.rmtree(run.snapshots)  # a finished run is not gone on with, and they are six times its checkpoint
    return folders


def _begun(settings: RunSettings, run: RunFolder) -> RunSettings:
    """The settings that the run has, or now gets. Threads may change from one sitting to the next."""
    wanted = replace(settings, training=chosen(settings.training))
    if not run.settings.exists():
        return start_run(wanted, run)
    begun = continue_run(run)
    if replace(begun, training=replace(begun.training, threads=wanted.training.threads)) != wanted:
        raise LtsRayError(
            f"{run.path} holds a run with other settings (steps, seed, corpus, device, …): "
            "give those it was started with, or choose another --output"
        )
    return wanted


def final_losses(run: RunFolder) -> dict[str, float]:
    """Of the checkpoint that a finished run left, on all held-out text."""
    (final,) = [record for record in read_json_lines(run.metrics, what="metrics") if record.get("final")]
    losses: dict[str, float] = final["validation_loss"]
    return losses
