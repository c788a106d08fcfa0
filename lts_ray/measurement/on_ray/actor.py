"""The long-lived Ray actors that evaluate: one pinned to each target, and one for the loss on the driver's node.

A candidate goes in, a frozen value comes out: `Measurement`, a loss, or `Failed`. Ray sets torch's threads from
`num_cpus`, so these classes set their own.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.measurement.measurement import Failed, Measurement, measure
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.subjects.subject import Subjects, SubjectSource
from lts_ray.measurement.subjects.submodel_subject import UniversalSource, Weights, model_from
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.universal_model import UniversalModel
from lts_ray.quantisation.quantised_weights import at_precision
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from lts_ray.timing import torch_threads


def host_identity() -> str:
    """The physical host: Ray nodes and containers on one host have the same, and disturb each other's timings."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


class MeasurementActor:
    """Measures on one target. One call at a time: Ray's default for an actor without coroutines."""

    def __init__(self, target: Target, source: SubjectSource[Any], payload: Any) -> None:
        self._target, self._source, self._payload = target, source, payload
        self._subjects: Subjects[Any] | None = None
        self._reference: Reference | None = None

    def start(self) -> str | Failed:
        """Open the source; return the host's identity. Not in the constructor, whose failure says little."""
        try:
            self._subjects = self._source.open(self._target, self._payload)
        except Exception as error:  # the actor's boundary: a failure becomes a value
            return _failed(error)
        return host_identity()

    def measure(self, candidate: Hashable) -> Measurement | Failed:
        assert self._subjects is not None, "start() comes first"
        try:
            # The baselines are taken here and not in start(): all actors start at once, but measure one at a time.
            if self._reference is None:
                self._reference = Reference.of(self._subjects.reference, self._target)
            return measure(self._subjects.subject(candidate), self._reference)
        except Exception as error:  # as above
            return _failed(error)


class LossActor:
    """Validation loss, once for all targets: quality does not depend on where the submodel runs.

    Where weights are rounded to fewer bits it is that of what they stand for.
    """

    def __init__(self, source: UniversalSource, weights: Weights, blocks: object) -> None:
        model, self._quantised = model_from(source.config, weights)
        self._models = {STORED: model}  # by precision, each rounded when it is first asked for
        self._blocks = torch.tensor(blocks)  # [N, T + 1]

    def start(self) -> str | Failed:
        return host_identity()

    def loss(self, submodel: Submodel) -> float | Failed:
        try:
            with torch_threads(len(os.sched_getaffinity(0))):
                model = self._model_at(self._models[STORED].config.precision_of(submodel))
                loss = validation_loss(model, self._blocks, replace(submodel, precision=""))
        except Exception as error:  # as above
            return _failed(error)
        return loss if math.isfinite(loss) else Failed(reason=f"the validation loss is {loss}")

    def _model_at(self, precision: str) -> UniversalModel:
        if precision not in self._models:
            stored = self._models[STORED]
            assert isinstance(stored, MatFormer), "other models run in one precision"
            self._models[precision] = at_precision(stored, precision, self._quantised)
        return self._models[precision]


def _failed(error: Exception) -> Failed:
    return Failed(reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
