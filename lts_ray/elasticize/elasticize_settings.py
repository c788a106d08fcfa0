"""What making a checkpoint elastic is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lts_ray.config_checks import check_switch, check_text, check_whole
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.models.elastic import GRANULARITIES, check_granularities
from lts_ray.training.run_settings import DataSettings, RunSettings, TrainingSettings

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


@dataclass(frozen=True, kw_only=True)
class ElasticizeSettings:
    """source: a checkpoint folder or a GGUF file. data: what calibrates, trains and evaluates; by source's tokenizer.

    granularities: the FFN fractions to train. by_importance: reorder the neurons first; else they nest as they stand.
    fine_tune: train after that.
    calibration_blocks: training sequences that importance is found on; report_blocks: held-out ones in the report.
    """

    source: str
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = FINE_TUNING
    granularities: Mapping[str, float] = field(default_factory=lambda: dict(GRANULARITIES))
    by_importance: bool = True
    fine_tune: bool = True
    calibration_blocks: int = 24
    report_blocks: int = 32

    def __post_init__(self) -> None:
        check_text(self.source, "source")
        for name in ("calibration_blocks", "report_blocks"):
            check_whole(getattr(self, name), name)
        for name in ("by_importance", "fine_tune"):
            check_switch(getattr(self, name), name)
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ElasticizeSettings:
        """Keys that are left out keep their defaults. Raises LtsRayError for unknown or unusable ones."""
        unknown = sorted(str(key) for key in value.keys() - {each.name for each in fields(cls)})
        if unknown:
            raise LtsRayError(
                f"unknown keys {', '.join(unknown)}; known: {', '.join(each.name for each in fields(cls))}"
            )
        training = value.get("training") or {}
        if not isinstance(training, Mapping):
            raise LtsRayError(f"section 'training' must be a mapping; got {training!r}")
        run = RunSettings.from_json({"data": value.get("data"), "training": {**asdict(FINE_TUNING), **training}})
        return cls(**{**value, "data": run.data, "training": run.training})


def load_elasticize_settings(
    path: Path | None, *, source: str, corpus: str | None, steps: int | None
) -> ElasticizeSettings:
    """Of a YAML file (None: defaults); `corpus` and `steps` go before what it says. Raises LtsRayError.

    steps: 0 trains nothing.
    """
    raw = {} if path is None else read_yaml(path, what="configuration")
    if not isinstance(raw, dict):
        raise LtsRayError(f"configuration {path} must be a mapping with the sections data, training and granularities")
    settings = ElasticizeSettings.from_json({**raw, "source": source})
    if corpus is not None:
        settings = replace(settings, data=replace(settings.data, corpus=corpus))
    if steps is None:
        return settings
    if steps == 0:
        return replace(settings, fine_tune=False)
    return replace(settings, training=replace(settings.training, steps=steps))
