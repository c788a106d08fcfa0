"""The long-lived Ray actors that evaluate: one pinned to each target, and one for the loss on the driver's node.

A candidate goes in, a frozen value comes out: `Measurement`, a loss, or `Failed`. Ray sets torch's threads from
`num_cpus`, so these classes set their own. They hold one universal model; submodels are slices of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import torch

from lts_ray.architecture import Submodel
from lts_ray.evaluation.perplexity import validation_loss
from lts_ray.measurement.calibration import calibrate
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.measurement.latency import torch_threads
from lts_ray.measurement.measure import Failed, Measurement, measure, prepare
from lts_ray.measurement.target import Target
from lts_ray.models.config import MatFormerConfig
from lts_ray.models.matformer import MatFormer

Weights = Mapping[str, object]
"""A state dict as NumPy arrays, which Ray shares between the processes of a node without copying."""


def host_identity() -> str:
    """The physical host: Ray nodes and containers on one host have the same, and disturb each other's timings."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def model_from(config: MatFormerConfig, weights: Weights) -> MatFormer:
    model = MatFormer(config)
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return model.eval()


class MeasurementActor:
    """Measures on one target. One call at a time: Ray's default for an actor without coroutines."""

    def __init__(self, target: Target, config: MatFormerConfig, weights: Weights) -> None:
        self._target, self._config, self._weights = target, config, weights
        self._model: MatFormer | None = None

    def start(self) -> str | Failed:
        """Build the model; return the host's identity. Not in the constructor, whose failure says little."""
        try:
            self._model = prepare(model_from(self._config, self._weights), self._target)
        except Exception as error:  # the actor's boundary: a failure becomes a value
            return _failed(error)
        return host_identity()

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        assert self._model is not None, "start() comes first"
        try:
            return measure(self._model, submodel, self._target)
        except Exception as error:  # as above
            return _failed(error)

    def calibrate(self, seconds: float) -> StepCostModel | Failed:
        assert self._model is not None, "start() comes first"
        try:
            return calibrate(self._model, threads=self._target.threads, seconds=seconds)
        except Exception as error:  # as above
            return _failed(error)


class LossActor:
    """Validation loss, once for all targets: quality does not depend on where the submodel runs."""

    def __init__(self, config: MatFormerConfig, weights: Weights, blocks: object) -> None:
        self._model = model_from(config, weights)
        self._blocks = torch.tensor(blocks)  # [N, T + 1]

    def start(self) -> str | Failed:
        return host_identity()

    def loss(self, submodel: Submodel) -> float | Failed:
        try:
            with torch_threads(len(os.sched_getaffinity(0))):
                return validation_loss(self._model, self._blocks, submodel)
        except Exception as error:  # as above
            return _failed(error)


def _failed(error: Exception) -> Failed:
    return Failed(reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
