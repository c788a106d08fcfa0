"""Sizes of model that nested training is compared at, and the runs that are trained at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.common.scale import Scale, run_flops, warmed_up
from benchmarks.common.training_runs import train_runs
from lts_ray.device import Device
from lts_ray.errors import LtsRayError
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings

WEIGHTED, SAMPLED, SAMPLED_EQUAL, INDEPENDENT = "large-first", "sampled", "sampled-equal-compute", "independent"


def other_objectives(scale: Scale, vocab_size: int) -> dict[str, RunSettings]:
    """Other ways to train the universal model, beside the joint one with equal weights. vocab_size: the tokenizer's."""
    joint = scale.universal
    sampled = replace(joint, training=replace(joint.training, objective="sampled"))
    steps = round(joint.training.steps * run_flops(joint, vocab_size) / run_flops(sampled, vocab_size))
    return {
        WEIGHTED: replace(joint, training=replace(joint.training, weights=WEIGHTED)),
        SAMPLED: sampled,
        SAMPLED_EQUAL: replace(sampled, training=replace(sampled.training, steps=steps)),
        INDEPENDENT: replace(joint, model=replace(joint.model, independent=True)),
    }


def train_scale(scale: Scale, folder: Path, *, objectives: bool = False) -> Mapping[str, RunFolder]:
    """All runs of one scale, in `folder`; those that are finished are not done again. Raises LtsRayError."""
    folders = dict(train_runs(scale.runs, folder))
    if objectives:
        vocab_size = load_tokenizer(folder / "data").vocab_size
        folders |= train_runs(other_objectives(scale, vocab_size), folder)
    return folders


def _scale(
    name: str, model: ModelSettings, steps: int, *, batch_size: int = 4, rate: float = 2e-3, device: Device = "cpu"
) -> Scale:
    """By the schedule of configs/sotu.yaml: warm-up over 5 % of the steps, then a cosine."""
    training = TrainingSettings(
        batch_size=batch_size,
        sequence_length=512,
        learning_rate=rate,
        final_learning_rate=rate / 40,
        checkpoint_every=100,
        device=device,
    )
    return Scale(name=name, model=model, training=warmed_up(training, steps))


def _of_the_paper(d_model: int) -> ModelSettings:
    """A row of the paper's table 2, with a vocabulary for little text: 16 layers and heads.

    The paper's FFN is two matrices of 4 · d_model neurons, ours three: two thirds of the neurons have as many
    parameters (12.6 M without embeddings at d_model 256), here the nearest multiple of 8, so that S is whole.
    """
    d_ff = 8 * round(2 / 3 * 4 * d_model / 8)
    return ModelSettings(
        vocab_size=8192, d_model=d_model, n_layer=16, n_head=16, n_kv_head=16, d_ff=d_ff, context_length=512
    )


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        _scale("small", ModelSettings(d_model=128, n_layer=4, d_ff=1024), 1000),
        _scale("medium", ModelSettings(d_model=256, n_layer=4, d_ff=1536), 500),
        _scale("paper-78m", _of_the_paper(256), 1200, batch_size=16, device="auto"),
        _scale("paper-180m", _of_the_paper(512), 1200, batch_size=16, rate=1e-3, device="auto"),
    )
}
DEFAULT_SCALES = ("small", "medium")


def scale_named(
    name: str, *, steps: int | None, corpus: str, seed: int, threads: int, device: Device | None = None
) -> Scale:
    """A preset with these choices made; device: None leaves the preset's. Raises LtsRayError."""
    if name not in SCALES:
        raise LtsRayError(f"unknown scale {name!r}; known: {', '.join(SCALES)}")
    preset = SCALES[name]
    training = preset.training
    if steps is not None:
        training = warmed_up(training, steps)
    if device is not None:
        training = replace(training, device=device)
    return replace(preset, training=replace(training, seed=seed, threads=threads), corpus=corpus)
