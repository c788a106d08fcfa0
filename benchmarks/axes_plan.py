"""What `python -m benchmarks.axes` trains: one shape of model, with more of it nested each time, at equal compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.flops import objective_flops
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings

FFN, HEADS, ALL = "ffn", "ffn-heads", "ffn-heads-d_model"

MODEL = ModelSettings(d_model=128, n_layer=4, n_head=8, n_kv_head=8, d_ff=352, context_length=256)
"""An FFN of 8/3 · d_model neurons, as decoders have: two thirds of a layer's parameters; the heads are the rest."""

NESTED: Mapping[str, dict[str, Any]] = {
    FFN: {},
    HEADS: {"nested_heads": {"S": 0.25, "M": 0.5, "L": 0.75}},
    ALL: {"nested_heads": {"S": 0.25, "M": 0.5, "L": 0.75}, "nested_d_model": {"S": 0.5, "M": 0.625, "L": 0.75}},
}
"""The shares that granularities have of what nests beside the FFN."""


@dataclass(frozen=True, kw_only=True)
class AxesPlan:
    """steps: of the model whose FFN alone nests; the others get as many more as their steps cost less."""

    steps: int
    seed: int
    threads: int
    corpus: str = "sotu"
    model: ModelSettings = MODEL

    def runs(self, vocab_size: int) -> Mapping[str, RunSettings]:
        """By name. vocab_size: the tokenizer's."""
        base = self.step_flops(FFN, vocab_size)
        return {name: self._run(name, round(self.steps * base / self.step_flops(name, vocab_size))) for name in NESTED}

    def config(self, name: str, vocab_size: int) -> MatFormerConfig:
        return self._model(name).config(vocab_size)

    def step_flops(self, name: str, vocab_size: int) -> float:
        """Of a joint step: every granularity as if it ran alone."""
        options, config = self._options(self.steps), self.config(name, vocab_size)
        tokens = options.batch_size * options.sequence_length
        return objective_flops(config, options.objective_of(config.granularities), tokens, options.sequence_length)

    def _model(self, name: str) -> ModelSettings:
        return replace(self.model, **NESTED[name])

    def _run(self, name: str, steps: int) -> RunSettings:
        return RunSettings(
            model=self._model(name), training=self._options(steps), data=DataSettings(corpus=self.corpus)
        )

    def _options(self, steps: int) -> TrainingSettings:
        return TrainingSettings(
            steps=steps,
            batch_size=8,
            sequence_length=self.model.context_length,
            final_learning_rate=5e-5,
            warmup_steps=max(1, round(0.05 * steps)),
            evaluate_every=steps,
            evaluation_blocks=16,
            final_evaluation_blocks=64,
            passes="separate",  # of all alike: only where the FFN alone nests could they share one
            seed=self.seed,
            threads=self.threads,
        )
