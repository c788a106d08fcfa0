"""A training run's folder: where what is, and who may write there."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines, write_json_lines

LOCK_WAIT_S = 30.0


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what: everything under one folder, readable by every worker."""

    path: Path

    @property
    def data(self) -> Path:
        """train.npy, validation.npy and the tokenizer."""
        return self.path / "data"

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

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


@contextlib.contextmanager
def exclusive(path: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock of the run's folder: a killed driver's worker may live on for seconds and must not write too."""
    with path.open("w") as file:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LtsRayError(f"another run is writing to {path.parent}; stop it first") from None
                time.sleep(0.2)
        yield


def forget_after(metrics: Path, step: int) -> None:
    """Drop records of steps that a resumed run does again, so that no step is logged twice."""
    records = read_json_lines(metrics, what="metrics")
    write_json_lines(metrics, [each for each in records if 0 < step >= each["step"] and not each.get("final")])


LOCK_WAIT_S = 30.0
