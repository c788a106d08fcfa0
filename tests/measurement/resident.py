"""What the operating system says a candidate needs, as a check on `memory`: the growth of a process's resident set.

A process of its own, because a resident set only grows by what no earlier work left behind. It first runs a tiny
candidate of the same kind, so that the libraries' code and their scratch memory are in the baseline.

The child returns a freed tensor's memory at once. Left alone, glibc keeps freed blocks of up to 32 MB for later ones,
which seldom fit: runs with large activations then grow by up to a fifth more than they need, by another amount in each
run. That is the C library's doing and not the candidate's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.measurement.peak_memory import generation
from lts_ray.measurement.subjects.stand_in import skipped_initialization, stand_in_weights
from lts_ray.measurement.subjects.subject import BackboneSource, Subject
from lts_ray.measurement.subjects.submodel_subject import UniversalSubjects
from lts_ray.models.family import Family
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.rope_scaling import RopeScaling
from lts_ray.record import record_json
from lts_ray.submodel import Submodel
from lts_ray.target import Target, read_target
from lts_ray.timing import torch_threads

TINY_WIDTH = 64
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""To glibc: larger blocks come from the system and go back to it; naming the limit keeps it from growing."""


@dataclass(frozen=True, kw_only=True)
class BackboneModel:
    """A backbone's candidate, as data that crosses to the child."""

    source: BackboneSource
    architecture: Architecture

    def subject(self, target: Target) -> Subject:
        return self.source.open(target).subject(self.architecture)

    def tiny(self) -> BackboneModel:
        tiny = Architecture(d_model=TINY_WIDTH, n_head=(2,), d_inner=(TINY_WIDTH,), d_embed=TINY_WIDTH)
        architecture = tiny if self.architecture.encoder is None else replace(tiny, encoder=tiny.stacks[0])
        return replace(self, architecture=architecture, source=replace(self.source, vocab_size=TINY_WIDTH))

    def to_json(self) -> dict[str, Any]:
        return {"source": asdict(self.source), "architecture": self.architecture.to_json()}


@dataclass(frozen=True, kw_only=True)
class ExtractedSubmodel:
    """A submodel served alone: the child builds what `extract` makes of it, and never the universal model."""

    config: MatFormerConfig
    submodel: Submodel

    def subject(self, target: Target) -> Subject:
        config = self.config.extracted(self.submodel)
        with skipped_initialization():
            model = MatFormer(config)
        stand_in_weights(model)
        return UniversalSubjects.of(model, target).subject(config.universal)

    def tiny(self) -> ExtractedSubmodel:
        smaller = replace(self.config, vocab_size=TINY_WIDTH, d_model=2 * self.config.n_head)
        config = replace(smaller, widths=(TINY_WIDTH,), heads=())
        return ExtractedSubmodel(config=config, submodel=config.universal)

    def to_json(self) -> dict[str, Any]:
        return {"config": asdict(self.config), "submodel": self.submodel.to_json()}


def resident_growth_bytes(candidate: BackboneModel | ExtractedSubmodel, target: Target) -> int:
    """Run a prefill and a decode step of the candidate in a new process, on the CPU; how much that made it grow.

    Linux only. Raises LtsRayError with the child's last line when it fails.
    """
    if target.device != "cpu":
        raise LtsRayError(
            f"target {target.name!r}: a resident set is of the CPU's memory; got device {target.device!r}"
        )
    request = json.dumps({"target": record_json(target), **candidate.to_json()})
    child = subprocess.run(
        [sys.executable, "-m", "tests.measurement.resident"],
        input=request,
        env={**os.environ, **RETURN_FREED},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        raise LtsRayError(f"the process that runs the candidate failed: {lines[-1] if lines else child.returncode}")
    return int(child.stdout)


def candidate_from_json(value: Mapping[str, Any]) -> BackboneModel | ExtractedSubmodel:
    if "config" in value:
        given = value["config"]
        tuples = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        scaling = None if given["rope_scaling"] is None else RopeScaling(**given["rope_scaling"])
        config = MatFormerConfig(**{**given, **tuples, "family": Family(**given["family"]), "rope_scaling": scaling})
        return ExtractedSubmodel(config=config, submodel=Submodel.from_json(value["submodel"]))
    source = BackboneSource(**value["source"])
    return BackboneModel(source=source, architecture=Architecture.from_json(value["architecture"]))


def run_candidate(candidate: BackboneModel | ExtractedSubmodel, target: Target) -> int:
    """In the child: bytes between what is resident before the candidate is built and the most while it runs.

    Building it takes more for a moment: a runtime's weights are copied from the model's.
    """
    with torch_threads(target.threads), torch.inference_mode():
        generation(candidate.tiny().subject(target), target)()
        before = status_bytes("VmRSS")
        run = generation(candidate.subject(target), target)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
        run()
    return status_bytes("VmHWM") - before


def status_bytes(key: str) -> int:
    """VmRSS: resident now; VmHWM: the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(values[key].removesuffix("kB")) * 1024


if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(run_candidate(candidate_from_json(request), read_target(request["target"])))
