"""Is one nested training as good as four plain ones? Trains both ways, on the same batches, and compares.

At each scale: the universal model and a plain model of each granularity's width, trained alone; then how far each
granularity is from its plain twin, how consistent the small ones are with the large one, whether Mix'n'Match fills the
curve between them, which Mix'n'Match is best, and what a joint step costs in time beside the four plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.held_out_text import held_out
from benchmarks.common.machine import Machine
from benchmarks.common.scale import Scale as StepScale
from benchmarks.common.training_runs import train_runs
from benchmarks.matformer_objectives import ObjectiveResult, judge_objectives
from benchmarks.matformer_quality import EVALUATIONS, MatFormerQuality, Progress, judge
from benchmarks.matformer_scales import UNIVERSAL, Scale, baseline
from benchmarks.training_step import MIXED, StepTimes, compare_steps
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.loop import device_named
from lts_ray.training.run_folder import RunFolder, check_output

SCHEMA = 1
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ScaleResult:
    """objectives: empty where they were not asked for. times: of training steps, taken in turns."""

    scale: Scale
    quality: MatFormerQuality
    times: StepTimes
    objectives: tuple[ObjectiveResult, ...]

    @property
    def time_ratio(self) -> float:
        """Of one joint step over the steps of the four plain models together."""
        return self.times.ratio(MIXED)[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.scale.name,
            "settings": self.scale.universal.to_json(),
            **self.quality.to_json(),
            "time_ratio": round(self.time_ratio, 4),
            "step_times": self.times.to_json(),
            "objectives": [each.to_json() for each in self.objectives],
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """evaluations: submodels that the random and the searched Mix'n'Match each looked at, at each size."""

    scales: tuple[ScaleResult, ...]
    seed: int
    evaluations: int
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "evaluations": self.evaluations,
            "machine": asdict(self.machine),
            "scales": [each.to_json() for each in self.scales],
        }

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line."""
        return {
            each.scale.name: {
                "relative_difference": {
                    twins.name: round(twins.relative_difference, 4) for twins in each.quality.twins
                },
                "on_or_under_the_line": f"{each.quality.under_the_line} of {len(each.quality.between)}",
                "time_ratio": round(each.time_ratio, 3),
            }
            for each in self.scales
        }


def run(
    scales: Sequence[Scale],
    folder: Path,
    *,
    objectives: bool = False,
    evaluations: int = EVALUATIONS,
    rounds: int = 15,
    seed: int = 0,
    say: Say = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
) -> Result:
    """Train what is not trained yet under folder/SCALE, then compare; killed, the same call goes on.

    rounds: of the steps that are timed in turns. say: hears which training begins; progress: of all that comes after.
    Raises LtsRayError for unusable settings, text or folders.
    """
    if evaluations < 1:
        raise LtsRayError(f"a choice looks at at least one submodel; got {evaluations} evaluations")
    check_output(folder)
    trained = [(scale, train_scale(scale, folder / scale.name, objectives=objectives, say=say)) for scale in scales]
    results = []
    for scale, folders in trained:

        def told(stage: str, done: int, total: int, name: str = scale.name) -> None:
            progress(f"{name}: {stage}", done, total)

        results.append(
            _compare(
                scale,
                folders,
                objectives=objectives,
                evaluations=evaluations,
                rounds=rounds,
                seed=seed,
                progress=told,
            )
        )
    return Result(scales=tuple(results), seed=seed, evaluations=evaluations, machine=Machine.here())


def train_scale(
    scale: Scale, folder: Path, *, objectives: bool = False, say: Say = lambda line: None
) -> Mapping[str, RunFolder]:
    """All runs of one scale, in `folder`; those that are finished are not done again. Raises LtsRayError."""
    folders = dict(train_runs(scale.runs, folder, say=say))
    if objectives:
        vocab_size = load_tokenizer(folder / "data").vocab_size
        folders |= train_runs(scale.objectives(vocab_size), folder, say=say)
    return folders


def _compare(
    scale: Scale,
    folders: Mapping[str, RunFolder],
    *,
    objectives: bool,
    evaluations: int,
    rounds: int,
    seed: int,
    progress: Progress,
) -> ScaleResult:
    device = device_named(scale.training.device).type
    data = folders[UNIVERSAL].data
    tokenizer = load_tokenizer(data)
    text = held_out(np.load(data / "validation.npy"), eos_id=tokenizer.eos_id, length=scale.training.sequence_length)
    universal = load_checkpoint(folders[UNIVERSAL].model, device=device).model
    baselines = {name: load_checkpoint(folders[baseline(name)].model, device=device).model for name in scale.baselines}
    quality = judge(
        universal, baselines, text, evaluations=evaluations, rng=np.random.default_rng(seed), progress=progress
    )
    other = (
        judge_objectives(scale, folders, text.report, vocab_size=tokenizer.vocab_size, device=device, progress=progress)
        if objectives
        else ()
    )
    times = compare_steps(
        StepScale(name=scale.name, model=scale.model, training=scale.training),
        rounds=rounds,
        progress=lambda done, total: progress("timing steps", done, total),
    )
    return ScaleResult(scale=scale, quality=quality, times=times, objectives=other)
