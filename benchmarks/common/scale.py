"""A size of model: the universal one, and a plain one of each granularity's width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lts_ray.training.flops import objective_flops
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings

UNIVERSAL = "universal"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """All its runs take the same steps, batches and learning rates."""

    name: str
    model: ModelSettings
    """Of the universal model."""
    training: TrainingSettings
    corpus: str = "sotu"

    @property
    def universal(self) -> RunSettings:
        return RunSettings(model=self.model, training=self.training, data=DataSettings(corpus=self.corpus))

    @property
    def baselines(self) -> Mapping[str, RunSettings]:
        """By granularity: a plain model of its width, trained alone."""
        trained = self.model.config(self.model.vocab_size).trained
        return {
            name: replace(self.universal, model=replace(self.model, d_ff=submodel.widths[0], granularities={"XL": 1.0}))
            for name, submodel in trained.items()
        }

    @property
    def runs(self) -> Mapping[str, RunSettings]:
        """By the name of their folder."""
        return {UNIVERSAL: self.universal} | {baseline(name): run for name, run in self.baselines.items()}


def baseline(granularity: str) -> str:
    """The name of the run that trains a plain model of this granularity's width."""
    return f"baseline-{granularity}"


def warmed_up(training: TrainingSettings, steps: int) -> TrainingSettings:
    """The same for so many steps, the first 5 % of which warm up."""
    return replace(training, steps=steps, warmup_steps=max(1, round(0.05 * steps)))


def run_flops(settings: RunSettings, vocab_size: int) -> float:
    """Of a run that trains a universal model, on average over the draws where it samples."""
    options, config = settings.training, settings.model.config(vocab_size)
    tokens = options.steps * options.batch_size * options.sequence_length
    return objective_flops(config, options.objective_of(config.granularities), tokens, options.sequence_length)
