"""What `python -m benchmarks.supernet` trains: several architectures fused, by both objectives, and each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lts_ray.architecture import Architecture
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.training.found_architecture import found_names, found_supernet
from lts_ray.training.learners.objective import Kind
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings

VOCAB_SIZE = ModelSettings.vocab_size
MEMBERS: Mapping[str, Architecture] = {
    "small": Architecture(d_model=128, n_head=(2, 4), d_inner=(256, 384), d_embed=128, div_val=4),
    "medium": Architecture(d_model=192, n_head=(4, 2, 8), d_inner=(384, 512, 448), d_embed=192, div_val=4),
    "large": Architecture(
        d_model=256, n_head=(4, 8, 2, 4, 8), d_inner=(576, 704, 448, 640, 768), d_embed=256, div_val=4
    ),
}
"""Points of the space gpt2: the largest is the deepest and the widest one, as in the paper's example."""
JOINT: Kind = "joint"
SAMPLED: Kind = "sampled"
OBJECTIVES: tuple[Kind, ...] = (JOINT, SAMPLED)


@dataclass(frozen=True, kw_only=True)
class SupernetPlan:
    """architecture: the members. All runs take the same steps, batches and learning rates."""

    architecture: SupernetConfig
    training: TrainingSettings
    corpus: str = "sotu"

    def fused(self, objective: Kind) -> RunSettings:
        return RunSettings(
            architecture=self.architecture,
            training=replace(self.training, objective=objective),
            data=DataSettings(corpus=self.corpus),
        )

    def one(self, member: str) -> RunSettings:
        """Steps of the fused training that all fall to this member."""
        settings = self.fused(SAMPLED)
        return replace(settings, training=replace(settings.training, probabilities={member: 1.0}))

    def alone(self, member: str) -> RunSettings:
        return RunSettings(
            architecture=self.architecture.configs[member],
            training=self.training,
            data=DataSettings(corpus=self.corpus),
        )

    @property
    def runs(self) -> Mapping[str, RunSettings]:
        """By the name of their folder."""
        fused = {fused_name(objective): self.fused(objective) for objective in OBJECTIVES}
        return fused | {alone_name(member): self.alone(member) for member in self.architecture.members}


def fused_name(objective: Kind) -> str:
    return f"fused-{objective}"


def alone_name(member: str) -> str:
    return f"alone-{member}"


def plan_of(
    found: Path | None = None,
    points: Sequence[str] = (),
    *,
    steps: int,
    corpus: str = "sotu",
    batch_size: int = 8,
    sequence_length: int = 256,
    seed: int = 0,
    threads: int = 1,
) -> SupernetPlan:
    """found: a search's architectures.json; None: MEMBERS. points: which of them; none: the first, middle and last.

    Raises LtsRayError.
    """
    known = list(MEMBERS) if found is None else found_names(found)
    names = list(points) or list(dict.fromkeys(known[place] for place in (0, len(known) // 2, -1)))
    sizes = {"vocab_size": VOCAB_SIZE, "context_length": sequence_length}
    return SupernetPlan(
        architecture=SupernetConfig(backbone="gpt2", members=MEMBERS, **sizes)
        if found is None
        else found_supernet(found, names, **sizes),
        training=TrainingSettings(
            steps=steps,
            batch_size=batch_size,
            sequence_length=sequence_length,
            learning_rate=2e-3,
            final_learning_rate=5e-5,
            warmup_steps=max(1, round(0.05 * steps)),
            checkpoint_every=50,
            seed=seed,
            threads=threads,
        ),
        corpus=corpus,
    )
