"""Is one training of several fused architectures as good as training each apart, and what does it save?

The same architectures are trained fused, all of them in every step and one drawn for each, and each alone, by the same
steps on the same batches (LTS, appendix B). Then the loss of every member on the same held-out text, and the time of a
step, in turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import typer

from benchmarks.common.command import ALL_CORES, Rounds, Threads, TrainingCorpus, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.result_page import Section, Tables, leave_result
from benchmarks.common.scale import warmed_up
from benchmarks.common.training_runs import final_losses, train_runs
from benchmarks.common.training_steps import quartiles_of_ratio, time_training_steps
from lts_ray.architecture import Architecture
from lts_ray.cli.options import Output, Seed
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.found_architecture import found_names, found_supernet
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.learners.backbone_learner import LOSS
from lts_ray.training.learners.objective import Kind
from lts_ray.training.loop import chosen
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings

SCHEMA = 1
MEMBERS: Mapping[str, Architecture] = {
    "small": Architecture(d_model=128, n_head=(2, 4), d_inner=(256, 384), d_embed=128, div_val=4),
    "medium": Architecture(d_model=192, n_head=(4, 2, 8), d_inner=(384, 512, 448), d_embed=192, div_val=4),
    "large": Architecture(
        d_model=256, n_head=(4, 8, 2, 4, 8), d_inner=(576, 704, 448, 640, 768), d_embed=256, div_val=4
    ),
}
"""Points of the space gpt2: the largest is the deepest and the widest one, as in the paper's example."""
OBJECTIVES: tuple[Kind, Kind] = ("joint", "sampled")
JOINT, SAMPLED, APART = *OBJECTIVES, "apart"


def settings_of(
    found: Path | None = None, points: Sequence[str] = (), *, corpus: str = "sotu", training: TrainingSettings
) -> RunSettings:
    """Of the fused training. found: a search's architectures.json; None: MEMBERS. points: which of them; none: three.

    Raises LtsRayError.
    """
    sizes = {"vocab_size": ModelSettings.vocab_size, "context_length": training.sequence_length}
    if found is None:
        architecture = SupernetConfig(backbone="gpt2", members=MEMBERS, **sizes)
    else:
        known = found_names(found)
        names = list(points) or list(dict.fromkeys(known[place] for place in (0, len(known) // 2, -1)))
        architecture = found_supernet(found, names, **sizes)
    return RunSettings(architecture=architecture, training=training, data=DataSettings(corpus=corpus))


def members_of(settings: RunSettings) -> SupernetConfig:
    assert isinstance(settings.architecture, SupernetConfig)
    return settings.architecture


def runs_of(settings: RunSettings) -> dict[str, RunSettings]:
    """All trainings, by the name of their folder; they take the same steps, batches and learning rates."""
    alone = {name: replace(settings, architecture=member) for name, member in members_of(settings).configs.items()}
    fused = {f"fused-{objective}": _with(settings, objective=objective) for objective in OBJECTIVES}
    return fused | {f"alone-{name}": run for name, run in alone.items()}


def steps_of(settings: RunSettings) -> dict[str, RunSettings]:
    """What is timed: a joint step, a sampled one that falls to each member, and one of each member alone."""
    steps: dict[str, RunSettings] = {JOINT: settings}
    for name, member in members_of(settings).configs.items():
        steps[f"{SAMPLED} {name}"] = _with(settings, objective=SAMPLED, probabilities={name: 1.0})
        steps[f"{APART} {name}"] = replace(settings, architecture=member)
    return steps


def _with(settings: RunSettings, **changes: Any) -> RunSettings:
    return replace(settings, training=replace(settings.training, **changes))


@dataclass(frozen=True, kw_only=True)
class FusedMember:
    """Of one architecture, fused and alone: nats a token on held-out text."""

    name: str
    decoder_params: int
    """Without the embedding."""
    params: int
    alone: float
    fused: Mapping[str, float]
    """By objective."""

    def relative_difference(self, objective: str) -> float:
        """How much more the loss is than alone."""
        return self.fused[objective] / self.alone - 1


@dataclass(frozen=True, kw_only=True)
class FusedResult:
    settings: RunSettings
    """Of the fused training."""
    members: tuple[FusedMember, ...]
    fused_params: int
    times_ms: Mapping[str, tuple[float, ...]]
    """Of a step of each kind, round by round."""
    machine: Machine

    def times_of(self, kind: str) -> list[tuple[float, ...]]:
        """By member."""
        return [self.times_ms[f"{kind} {member.name}"] for member in self.members]

    def rounds_ms(self, kind: str) -> list[float]:
        """One step for all members: joint, drawn (the mean of the draws), or apart (the sum of each alone)."""
        if kind == JOINT:
            return list(self.times_ms[JOINT])
        together = fmean if kind == SAMPLED else sum
        return [float(together(times)) for times in zip(*self.times_of(kind), strict=True)]

    @property
    def costs(self) -> list[dict[str, Any]]:
        """Of a whole training of each kind. Tokens count once for each member that they went forward and back through.

        of_apart, of_slowest: the time over that of all members apart, and over that of the slowest member alone, which
        is what the paper expects fused training to take: first quartile, median and third quartile of the rounds.
        """
        training = self.settings.training
        batches = training.steps * training.batch_size * training.sequence_length
        apart, slowest = self.rounds_ms(APART), max(self.times_of(APART), key=median)
        return [
            {
                "training": kind,
                "step_ms": median(self.rounds_ms(kind)),
                "seconds": training.steps * median(self.rounds_ms(kind)) / 1000,
                "tokens": batches * (1 if kind == SAMPLED else len(self.members)),
                "of_apart": quartiles_of_ratio(self.rounds_ms(kind), apart),
                "of_slowest": quartiles_of_ratio(self.rounds_ms(kind), slowest),
            }
            for kind in (JOINT, SAMPLED, APART)
        ]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "costs": self.costs}

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line."""
        return {
            "relative_difference": {
                member.name: {name: round(member.relative_difference(name), 4) for name in OBJECTIVES}
                for member in self.members
            },
            **{
                key: {cost["training"]: cost[key] for cost in self.costs}
                for key in ("of_apart", "of_slowest", "seconds")
            },
        }

    def tables(self) -> Tables:
        training = chosen(self.settings.training)
        members: list[dict[str, Any]] = []
        for member in self.members:
            row = {"member": member.name, "decoder params": member.decoder_params, "loss alone": member.alone}
            for name in OBJECTIVES:
                row |= {f"fused, {name}": member.fused[name], f"{name}, %": 100 * member.relative_difference(name)}
            members.append(row)
        batch = f"{training.batch_size} × {training.sequence_length} tokens"
        how = f"{training.threads} threads, {training.precision}"
        return {
            f"held-out loss after {training.steps} steps of {batch}": members,
            f"time; steps of each kind taken in turns, {how}": self.costs,
        }


def compare_fused(
    settings: RunSettings,
    folder: Path,
    *,
    rounds: int = 15,
) -> FusedResult:
    """Train what is not trained yet in `folder`, then compare; killed, the same call goes on. settings: the fused ones.

    Raises LtsRayError for unusable settings, text or folders.
    """
    folders = train_runs(runs_of(settings), folder)
    vocab_size = load_tokenizer(folder / "data").vocab_size
    config = replace(members_of(settings), vocab_size=vocab_size)
    fused = {objective: final_losses(folders[f"fused-{objective}"]) for objective in OBJECTIVES}
    members = []
    for name, architecture in config.configs.items():
        counts = architecture.skeleton().parameter_counts()
        member = FusedMember(
            name=name,
            decoder_params=counts["decoder"],
            params=sum(counts.values()),
            alone=final_losses(folders[f"alone-{name}"])[LOSS],
            fused={objective: losses[name] for objective, losses in fused.items()},
        )
        members.append(member)
    with shown_progress("timing steps") as progress:
        times_ms = time_training_steps(steps_of(settings), vocab_size=vocab_size, rounds=rounds, progress=progress)
    return FusedResult(
        settings=settings,
        members=tuple(members),
        fused_params=sum(config.fused.skeleton().parameter_counts().values()),
        times_ms=times_ms,
        machine=Machine.here(),
    )


def fused_training(
    output: Output,
    found: Annotated[
        Path | None,
        typer.Option("--from", help="architectures.json of a search; default: three small points of the space gpt2."),
    ] = None,
    point: Annotated[list[str] | None, typer.Option("--point", help="Of --from; default: three of them.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of every training.")] = 500,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 8,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 256,
    rounds: Rounds = 15,
    corpus: TrainingCorpus = "sotu",
    seed: Seed = 0,
    threads: Threads = ALL_CORES,
) -> None:
    """Supernet: the loss of architectures trained fused beside each trained alone, and the time that both take.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes a quarter of an hour on two
    cores.
    """
    if point and found is None:
        raise LtsRayError("--point says which of --from's architectures to fuse: give both")
    keep_freed_memory()
    training = TrainingSettings(
        batch_size=batch_size,
        sequence_length=sequence_length,
        final_learning_rate=5e-5,
        checkpoint_every=50,
        seed=seed,
        threads=threads,
    )
    settings = settings_of(found, point or (), corpus=corpus, training=warmed_up(training, steps))
    result = compare_fused(settings, output, rounds=rounds)
    apart = sum(member.params for member in result.members)
    text = f"The supernet has {result.fused_params:,} parameters, its members together {apart:,}."
    leave_result(
        output,
        "supernet",
        result.to_json(),
        heading="Several architectures in one training",
        text="The same steps on the same batches: all members in every step, one drawn for each step, and each apart.",
        sections=[Section(text=text, tables=result.tables())],
        machine=result.machine,
        summary=result.summary(),
    )


if __name__ == "__main__":
    run_benchmark(fused_training)
