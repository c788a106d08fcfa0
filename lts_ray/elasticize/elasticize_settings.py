"""What making a checkpoint elastic is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import GRANULARITIES, check_granularities
from lts_ray.record import Text, Whole, read_record, record
from lts_ray.training.run_settings import (
    DataSettings,
    RunSettings,
    Shares,
    TrainingSettings,
    given_sections,
    read_sections,
)

FINE_TUNING = TrainingSettings(
    steps=200,
    batch_size=4,
    sequence_length=256,
    learning_rate=3e-4,
    final_learning_rate=2e-5,
    warmup_steps=10,
    weight_decay=0.0,
    train="ffn",
    evaluate_every=50,
    evaluation_blocks=8,
    final_evaluation_blocks=64,
    checkpoint_every=50,
    log_every=1,
)
"""For a model that is trained already: few steps, only the FFNs, and the original as the teacher."""


@record()
class ElasticizeSettings:
    """What a run does to one checkpoint."""

    source: Text
    """A checkpoint folder or a GGUF file."""
    data: DataSettings = DataSettings()
    """What calibrates, trains and evaluates; by the tokenizer of `source`."""
    training: TrainingSettings = FINE_TUNING
    """How to optimise."""
    granularities: Shares = field(default_factory=lambda: dict(GRANULARITIES))
    """The FFN fractions to train, by name."""
    by_importance: bool = True
    """Sort the neurons by importance first; else they nest as they stand."""
    fine_tune: bool = True
    """Train after that."""
    calibration_blocks: Whole = 24
    """Training sequences that importance is found on."""
    report_blocks: Whole = 32
    """Held-out sequences in the report."""

    def __post_init__(self) -> None:
        check_granularities(self.granularities)
        if self.data.tokenizer is not None:
            raise LtsRayError("the tokenizer is the original checkpoint's: leave data.tokenizer out")
        if self.training.teacher is not None:
            raise LtsRayError("the teacher is the original checkpoint: leave training.teacher out")
        self.training.objective_of(self.granularities)

    def run(self, *, start: str, teacher: str) -> RunSettings:
        """The training run from the checkpoint `start`."""
        training = replace(self.training, teacher=teacher) if self.training.distillation > 0 else self.training
        return RunSettings(data=self.data, training=training, init_from=start)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ElasticizeSettings:
        """Keys that are left out keep their defaults. Raises LtsRayError for unknown or unusable ones."""
        return read_record(cls, given_sections(value, training=FINE_TUNING))


def load_elasticize_settings(
    path: Path | None, *, source: str, corpus: str | None, steps: int | None
) -> ElasticizeSettings:
    """Of a YAML file (None: defaults); `corpus` and `steps` go before what it says. Raises LtsRayError.

    steps: 0 trains nothing.
    """
    sections = {} if path is None else read_sections(path)
    settings = ElasticizeSettings.from_json({**sections, "source": source})
    if corpus is not None:
        settings = replace(settings, data=replace(settings.data, corpus=corpus))
    if steps is None:
        return settings
    if steps == 0:
        return replace(settings, fine_tune=False)
    return replace(settings, training=replace(settings.training, steps=steps))
