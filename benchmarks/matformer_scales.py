"""What `python -m benchmarks.matformer` trains: sizes of model, and at each the runs that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.flops import objective_flops
from lts_ray.training.run_settings import DataSettings, Device, ModelSettings, RunSettings, TrainingSettings

UNIVERSAL = "universal"
WEIGHTED, SAMPLED, SAMPLED_EQUAL, INDEPENDENT = "large-first", "sampled", "sampled-equal-compute", "independent"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size of model and how it is trained; all its runs take the same steps, batches and learning rates."""

    name: str
    model: ModelSettings
    training: TrainingSettings
    corpus: str = "sotu"

    def config(self, vocab_size: int) -> MatFormerConfig:
        """Of the universal model. vocab_size: the tokenizer's."""
        return self.model.config(vocab_size)

    @property
    def universal(self) -> RunSettings:
        return RunSettings(model=self.model, training=self.training, data=DataSettings(corpus=self.corpus))

    @property
    def baselines(self) -> Mapping[str, RunSettings]:
        """By granularity: a plain model of its width, trained alone."""
        trained = self.config(self.model.vocab_size).trained
        return {
            name: replace(self.universal, model=replace(self.model, d_ff=submodel.widths[0], granularities={"XL": 1.0}))
            for name, submodel in trained.items()
        }

    @property
    def runs(self) -> Mapping[str, RunSettings]:
        return {UNIVERSAL: self.universal} | {baseline(name): each for name, each in self.baselines.items()}

    def objectives(self, vocab_size: int) -> Mapping[str, RunSettings]:
        """Other ways to train the universal model, beside the joint one with equal weights."""
        training = self.training
        sampled = replace(training, objective="sampled")
        return {
            WEIGHTED: replace(self.universal, training=replace(training, weights=WEIGHTED)),
            SAMPLED: replace(self.universal, training=sampled),
            SAMPLED_EQUAL: replace(self.universal, training=replace(sampled, steps=self._equal_steps(vocab_size))),
            INDEPENDENT: replace(self.universal, model=replace(self.model, independent=True)),
        }

    def flops(self, settings: RunSettings, vocab_size: int) -> float:
        """What a run of the universal model costs, on average over the draws where it samples."""
        options, config = settings.training, self.config(vocab_size)
        tokens = options.steps * options.batch_size * options.sequence_length
        return objective_flops(config, options.objective_of(config.granularities), tokens, options.sequence_length)

    def _equal_steps(self, vocab_size: int) -> int:
        """Steps of one drawn granularity for the compute of the joint run."""
        sampled = replace(self.universal, training=replace(self.training, objective="sampled"))
        return round(self.training.steps * self.flops(self.universal, vocab_size) / self.flops(sampled, vocab_size))


def baseline(granularity: str) -> str:
    """The name of the run that trains a plain model of this granularity's width."""
    return f"baseline-{granularity}"


def _training(
    *, steps: int, learning_rate: float = 2e-3, batch_size: int = 4, device: Device = "cpu"
) -> TrainingSettings:
    """The schedule of configs/sotu.yaml: warm-up over 5 % of the steps, then a cosine."""
    return TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        sequence_length=512,
        learning_rate=learning_rate,
        final_learning_rate=learning_rate / 40,
        warmup_steps=max(1, round(0.05 * steps)),
        checkpoint_every=100,
        device=device,
    )


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
        Scale(
            name="small",
            model=ModelSettings(d_model=128, n_layer=4, n_head=4, n_kv_head=2, d_ff=1024),
            training=_training(steps=1000),
        ),
        Scale(
            name="medium",
            model=ModelSettings(d_model=256, n_layer=4, n_head=4, n_kv_head=2, d_ff=1536),
            training=_training(steps=500),
        ),
        Scale(
            name="paper-78m",
            model=_of_the_paper(256),
            training=_training(steps=1200, batch_size=16, device="auto"),
        ),
        Scale(
            name="paper-180m",
            model=_of_the_paper(512),
            training=_training(steps=1200, batch_size=16, learning_rate=1e-3, device="auto"),
        ),
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
        training = replace(training, steps=steps, warmup_steps=max(1, round(0.05 * steps)))
    if device is not None:
        training = replace(training, device=device)
    return replace(preset, training=replace(training, seed=seed, threads=threads), corpus=corpus)
