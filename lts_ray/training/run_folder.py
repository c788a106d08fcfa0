"""A run's folder: where what is, how a run begins there and is gone on with, and who may write there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lts_ray.errors import LtsRayError, StoppedError
from lts_ray.files import read_json, read_json_lines, write_json, write_json_lines
from lts_ray.lock import exclusive, is_vacant, nothing_left

SCHEMA = 1
WORKER_WAIT_S = 30.0
"""A killed driver's worker may live on for seconds, and must not write too."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what: everything under one folder, readable by every worker."""

    path: Path
    settings_name: str = "settings.json"

    @property
    def data(self) -> Path:
        """train.npy, validation.npy and the tokenizer."""
        return self.path / "data"

    @property
    def settings(self) -> Path:
        return self.path / self.settings_name

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def model(self) -> Path:
        """The finished checkpoint."""
        return self.path / "model"

    @property
    def is_finished(self) -> bool:
        return any(record.get("final") for record in read_json_lines(self.metrics, what="metrics"))

    def check_unused(self, *, empty: bool = False) -> None:
        """Raises LtsRayError where a run has begun; with `empty`, where there is anything at all."""
        used = "holds a run already" if self.settings.exists() else None
        if empty and not is_vacant(self.path):
            used = "is not empty"
        if used:
            raise LtsRayError(f"{self.path} {used}: add --resume to go on with it, or choose another --output")

    @contextmanager
    def only_driver(self) -> Iterator[None]:
        """Held by the process that the user started. Raises LtsRayError at once where another has it.

        A run that is refused before anything was learned leaves nothing behind.
        """
        with (
            exclusive(self.path, self.settings.stem, what="run"),
            nothing_left(self.path, began=lambda: bool(read_json_lines(self.metrics, what="metrics"))),
        ):
            yield

    def only_writer(self) -> AbstractContextManager[None]:
        """Held by the worker that writes. Raises LtsRayError where another has it for long."""
        return exclusive(self.path, "worker", what="run", wait_s=WORKER_WAIT_S)

    @contextmanager
    def resumable(self, command: str) -> Iterator[None]:
        """An interrupt is an LtsRayError that says how to go on, once there is something to go on with."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.settings.exists():
                raise
            raise StoppedError(f"interrupted; go on with: {command} --output {self.path} --resume") from None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, with every automatic choice made, so that resuming makes the same ones."""
        write_json(self.settings, {"schema": SCHEMA, **settings})

    def resume(self) -> dict[str, Any]:
        """The settings with which the run began. Raises LtsRayError."""
        if not self.settings.exists():
            raise LtsRayError(f"{self.path} holds no run to resume: leave --resume out to start one")
        settings = read_json(self.settings, what="run settings")
        if settings.pop("schema", None) != SCHEMA:
            raise LtsRayError(f"{self.settings} is of another version of lts-ray; start a new run")
        return settings


def forget_after(metrics: Path, step: int) -> None:
    """Drop records of steps that a resumed run does again, so that no step is logged twice."""
    records = read_json_lines(metrics, what="metrics")
    kept = [record for record in records if 0 < step >= record["step"] and not record.get("final")]
    write_json_lines(metrics, kept)
