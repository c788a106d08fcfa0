"""Is fused training as good as training apart, and what does it save? (LTS, appendix B.)

The same architectures are trained fused, all of them in every step and one drawn for each, and each alone, by the same
steps on the same batches. Then the loss of every member on the same held-out text, and the time of a step, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import supernet_steps
from benchmarks.common.machine import Machine
from benchmarks.common.training_runs import train_runs
from benchmarks.supernet_plan import JOINT, OBJECTIVES, SAMPLED, SupernetPlan, alone_name, fused_name
from benchmarks.supernet_steps import KINDS, Progress, StepTimes
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.learners.backbone_learner import LOSS
from lts_ray.training.ray_trainer import check_output
from lts_ray.training.run_folder import RunFolder

SCHEMA = 1
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class MemberResult:
    """Nats a token on held-out text: alone, and fused by objective. decoder_params, params: without embedding, all."""

    name: str
    decoder_params: int
    params: int
    alone: float
    fused: Mapping[str, float]

    def relative_difference(self, objective: str) -> float:
        """How much more the loss is than alone."""
        return self.fused[objective] / self.alone - 1


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Of a whole training: `step_ms` is the median of steps taken in turns, of all members together where apart.

    tokens: that went forward and back, counted once for each member that they went through.
    of_apart, of_largest: the time over that of all members apart, and over that of the slowest of them alone: quartiles
    of the rounds.
    """

    kind: str
    steps: int
    step_ms: float
    tokens: int
    of_apart: tuple[float, float, float]
    of_largest: tuple[float, float, float]

    @property
    def seconds(self) -> float:
        return self.steps * self.step_ms / 1000


@dataclass(frozen=True, kw_only=True)
class Result:
    plan: SupernetPlan
    members: tuple[MemberResult, ...]
    fused_params: int
    times: StepTimes
    machine: Machine

    @property
    def costs(self) -> tuple[TrainingCost, ...]:
        training = self.plan.training
        batches = training.steps * training.batch_size * training.sequence_length
        return tuple(
            TrainingCost(
                kind=kind,
                steps=training.steps,
                step_ms=self.times.median_ms(kind),
                tokens=batches * (1 if kind == SAMPLED else len(self.members)),
                of_apart=self.times.ratio(kind),
                of_largest=self.times.ratio_to_largest(kind),
            )
            for kind in KINDS
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "settings": self.plan.fused(JOINT).to_json(),
            "precision": self.times.precision,
            "threads": self.times.threads,
            "fused_params": self.fused_params,
            "members": [
                {
                    **asdict(each),
                    "relative_difference": {name: round(each.relative_difference(name), 5) for name in OBJECTIVES},
                }
                for each in self.members
            ],
            "costs": [{**asdict(each), "seconds": round(each.seconds, 1)} for each in self.costs],
            "times_ms": {"joint": self.times.joint, "sampled": self.times.sampled, "alone": self.times.alone},
        }

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line."""
        return {
            "relative_difference": {
                each.name: {name: round(each.relative_difference(name), 4) for name in OBJECTIVES}
                for each in self.members
            },
            "time_of_apart": {each.kind: round(each.of_apart[1], 3) for each in self.costs},
            "time_of_largest": {each.kind: round(each.of_largest[1], 3) for each in self.costs},
            "seconds": {each.kind: round(each.seconds, 1) for each in self.costs},
        }


def run(
    plan: SupernetPlan,
    folder: Path,
    *,
    rounds: int = 15,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Train what is not trained yet in `folder`, then compare; killed, the same call goes on.

    say: hears which training begins; progress: of the steps that are timed. Raises LtsRayError for unusable settings,
    text or folders.
    """
    if rounds < 2:
        raise LtsRayError(f"training steps are compared over at least 2 rounds; got {rounds}")
    check_output(folder)
    folders = train_runs(plan.runs, folder, say=say)
    vocab_size = load_tokenizer(folder / "data").vocab_size
    config = replace(plan.architecture, vocab_size=vocab_size)
    fused = config.fused.skeleton().parameter_counts()
    return Result(
        plan=plan,
        members=_members(config, folders),
        fused_params=sum(fused.values()),
        times=supernet_steps.run(plan, vocab_size=vocab_size, rounds=rounds, progress=progress),
        machine=Machine.here(),
    )


def _members(config: SupernetConfig, folders: Mapping[str, RunFolder]) -> tuple[MemberResult, ...]:
    fused = {objective: _losses(folders[fused_name(objective)]) for objective in OBJECTIVES}
    results = []
    for name, each in config.configs.items():
        counts = each.skeleton().parameter_counts()
        results.append(
            MemberResult(
                name=name,
                decoder_params=counts["decoder"],
                params=sum(counts.values()),
                alone=_losses(folders[alone_name(name)])[LOSS],
                fused={objective: losses[name] for objective, losses in fused.items()},
            )
        )
    return tuple(results)


def _losses(folder: RunFolder) -> Mapping[str, float]:
    """Of the checkpoints that the run left, on all held-out text."""
    (final,) = [each for each in read_json_lines(folder.metrics, what="metrics") if each.get("final")]
    losses: Mapping[str, float] = final["validation_loss"]
    return losses
