"""What `python -m benchmarks.scaling` trains: sizes of one shape, each on as many tokens a parameter as the others.

As the paper's table 2: the layers stay, d_model and with it all else grows, and the steps grow with the parameters
while batch, warm-up and the rest stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.common.scale import Scale
from benchmarks.scaling_law import LEAST_SIZES
from lts_ray.errors import LtsRayError
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

SIZES = (32, 48, 64, 80)
STEPS = 4_900
HEAD = 16
"""Dimensions of a head, at every size."""
RATE = 0.3
"""Learning rate times d_model: a narrower model takes larger steps."""
TRAINING = TrainingSettings(
    batch_size=2,  # for so few tokens, more steps are better than larger ones
    sequence_length=128,
    precision="float32",  # at these widths no slower than bfloat16
    log_every=50,
    evaluate_every=1_000_000,  # the end of a run is all that is looked at
)


def scales_of(
    sizes: Sequence[int] = SIZES, *, steps: int = STEPS, corpus: str = "sotu", seed: int = 0, threads: int = 1
) -> tuple[Scale, ...]:
    """By growing d_model. steps: of the largest. Raises LtsRayError for sizes that no law can be fitted to."""
    if len(set(sizes)) < max(LEAST_SIZES, len(sizes)):
        raise LtsRayError(f"a scaling law needs at least {LEAST_SIZES} different sizes; got {_listed(sizes)}")
    odd = [each for each in sizes if each < HEAD or each % HEAD]
    if odd:
        raise LtsRayError(
            f"a size is a d_model, a multiple of {HEAD}, as its heads are {HEAD} wide; got {_listed(odd)}"
        )
    if steps < 1:
        raise LtsRayError(f"a training has at least one step; got {steps}")
    models = [_model(each) for each in sorted(sizes)]
    params = [each.config(each.vocab_size).decoder_params() for each in models]
    training = replace(TRAINING, seed=seed, threads=threads)
    return tuple(
        Scale(
            name=f"d{model.d_model}",
            model=model,
            training=_schedule(training, d_model=model.d_model, steps=max(1, round(steps * size / params[-1]))),
            corpus=corpus,
        )
        for model, size in zip(models, params, strict=True)
    )


def _model(d_model: int) -> ModelSettings:
    """Four layers; three matrices of 8/3 · d_model neurons: as many parameters as the paper's two of 4 · d_model."""
    return ModelSettings(
        vocab_size=1024,
        d_model=d_model,
        n_head=d_model // HEAD,
        n_kv_head=d_model // HEAD,
        n_layer=4,
        d_ff=8 * round(8 / 3 * d_model / 8),
        context_length=TRAINING.sequence_length,
    )


def _schedule(training: TrainingSettings, *, d_model: int, steps: int) -> TrainingSettings:
    """Warm-up over 5 % of the steps, then a cosine."""
    return replace(
        training,
        steps=steps,
        warmup_steps=max(1, round(0.05 * steps)),
        learning_rate=RATE / d_model,
        final_learning_rate=RATE / d_model / 40,
    )


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"
