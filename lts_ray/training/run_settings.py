"""What a training run is asked to do: one frozen record, read from YAML, in which an unknown key is an error."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lts_ray.config_checks import check_positive, check_switch, check_text, check_whole, is_number
from lts_ray.config_sections import check_known, section_of
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.models.elastic import GRANULARITIES, check_granularities, check_shares
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.found_architecture import architecture_of
from lts_ray.training.learners import weighting
from lts_ray.training.learners.learner import Trained
from lts_ray.training.learners.objective import Kind, Objective
from lts_ray.training.learners.universal_learner import Passes
from lts_ray.training.learners.weighting import Weighting

Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
CHOICES = {
    "device": get_args(Device),
    "precision": get_args(Precision),
    "objective": get_args(Kind),
    "passes": get_args(Passes),
    "train": get_args(Trained),
    "save_dtype": get_args(StoredDtype),
}
OF_SEVERAL = ("objective", "weights", "probabilities")
OF_GRANULARITIES = ("passes", "train", "teacher", "distillation")
TWO_MODELS = "a run trains the universal model of section 'model' or an 'architecture', not both: leave one out"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The shape of a fresh universal model; not used when a run starts from a checkpoint.

    granularities: the fractions of the FFN to train, by name; None: the paper's four. `{XL: 1}` is a plain model.
    nested_heads, nested_d_model: the fractions of attention heads and of d_model that these have, by name; those that
    are left out have all; None: they do not nest.
    independent: each granularity has FFN blocks of its own, and shares the rest: an ablation, which is not served.
    """

    vocab_size: int = 2048
    d_model: int = 256
    n_head: int = 4
    n_kv_head: int = 2
    n_layer: int = 3
    d_ff: int = 2816
    context_length: int = 512
    granularities: Mapping[str, float] | None = None
    nested_heads: Mapping[str, float] | None = None
    nested_d_model: Mapping[str, float] | None = None
    independent: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_head", "n_kv_head", "n_layer", "d_ff", "context_length"):
            check_whole(getattr(self, name), f"model.{name}")
        check_switch(self.independent, "model.independent")
        if self.granularities is not None:
            check_granularities(self.granularities, what="model.granularities")
        for axis in ("nested_heads", "nested_d_model"):
            shares = getattr(self, axis)
            check_shares(shares, self.granularities or GRANULARITIES, what=f"model.{axis}")
            if shares is not None and self.independent:
                raise LtsRayError(f"model.independent has FFN blocks apart and shares the rest: leave model.{axis} out")

    @property
    def names(self) -> list[str]:
        """Of the granularities, smallest first."""
        return list(GRANULARITIES if self.granularities is None else self.granularities)

    def config(self, vocab_size: int, *, eos_id: int = 0) -> MatFormerConfig:
        """vocab_size: the tokenizer's, which may have found fewer tokens than were asked for.

        eos_id: the tokenizer's too; a text begins after the end of the one before, so it is also what begins one.
        """
        return MatFormerConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            n_head=self.n_head,
            n_kv_head=self.n_kv_head,
            widths=(self.d_ff,) * self.n_layer,
            context_length=self.context_length,
            granularities=dict(GRANULARITIES if self.granularities is None else self.granularities),
            nested_heads=self.nested_heads,
            nested_d_model=self.nested_d_model,
            bos_token_id=eos_id,
            eos_token_id=eos_id,
        )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """corpus: see `lts_ray.text.corpus`. tokenizer: a folder with a trained one; None trains one (BPE)."""

    corpus: str = "sotu"
    tokenizer: str | None = None
    validation_fraction: float = 0.05
    max_documents: int | None = None

    def __post_init__(self) -> None:
        check_text(self.corpus, "data.corpus")
        if self.tokenizer is not None:
            check_text(self.tokenizer, "data.tokenizer")
        if not is_number(self.validation_fraction) or not 0 < self.validation_fraction < 1:
            raise LtsRayError(f"data.validation_fraction must be between 0 and 1; got {self.validation_fraction!r}")
        if self.max_documents is not None:
            check_whole(self.max_documents, "data.max_documents")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to optimise.

    batch_size: sequences a step, over all workers. objective: of a universal model: the losses of all granularities by
    their `weights`, or that of one, drawn for each step by the `probabilities`; both by granularity and relative, or a
    preset (see `learners.weighting`); a supernet has members in their place. passes: see `UniversalLearner`.
    train: all parameters or only those of the FFNs. teacher: the folder of a universal model from which all
    granularities but the universal one learn; the share `distillation` of their loss is KL(teacher ‖ granularity), the
    rest the text's cross-entropy.
    device: where model, optimizer and batches are; `auto` takes a GPU where there is one. precision: of the matrix
    products; `auto` takes bfloat16 where the device multiplies it natively. threads: torch threads of a worker; None
    shares the machine's cores out. checkpoint_every, evaluate_every, log_every: in steps.
    evaluation_blocks, final_evaluation_blocks: sequences of the validation set used while training and at its end;
    None uses all.
    """

    steps: int = 1000
    batch_size: int = 4
    sequence_length: int = 512
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = 1.0
    objective: Kind = "joint"
    weights: Weighting = weighting.EQUAL
    probabilities: Weighting = weighting.UNIFORM
    passes: Passes = "mixed"
    train: Trained = "all"
    teacher: str | None = None
    distillation: float = 0.5
    device: Device = "cpu"
    precision: Precision = "auto"
    save_dtype: StoredDtype = "float32"
    seed: int = 0
    workers: int = 1
    threads: int | None = None
    log_every: int = 10
    evaluate_every: int = 250
    evaluation_blocks: int = 32
    final_evaluation_blocks: int | None = None
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "sequence_length", "workers")
        for name in (*names, "log_every", "evaluate_every", "evaluation_blocks", "checkpoint_every"):
            check_whole(getattr(self, name), f"training.{name}")
        for name in ("warmup_steps", "seed"):
            check_whole(getattr(self, name), f"training.{name}", at_least=0)
        for name in ("threads", "final_evaluation_blocks"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), f"training.{name}")
        for name in ("learning_rate", "final_learning_rate", "gradient_clip"):
            check_positive(getattr(self, name), f"training.{name}")
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            raise LtsRayError(f"training.weight_decay must be a number of at least 0; got {self.weight_decay!r}")
        pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        if not pair or not all(is_number(each) and 0 <= each < 1 for each in self.betas):
            raise LtsRayError(f"training.betas must be two numbers, of at least 0 and below 1; got {self.betas!r}")
        if self.teacher is not None:
            check_text(self.teacher, "training.teacher")
        if self.batch_size % self.workers:
            raise LtsRayError(f"training.batch_size {self.batch_size} does not divide among {self.workers} workers")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise LtsRayError(f"training.{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not is_number(self.distillation) or not 0 <= self.distillation <= 1:
            raise LtsRayError(f"training.distillation must be between 0 and 1; got {self.distillation!r}")

    def objective_of(self, granularities: Collection[str]) -> Objective:
        """What a model with these granularities, smallest first, is to minimise. Raises LtsRayError."""
        return Objective.of(
            self.objective,
            weights=self.weights,
            probabilities=self.probabilities,
            seed=self.seed,
            granularities=granularities,
        )

    def check_backbone(self, *, fused: bool = False) -> None:
        """Raises LtsRayError where these settings ask a backbone, or several fused ones, for what they cannot do."""
        for each in fields(self):
            refused = each.name in OF_GRANULARITIES or (each.name in OF_SEVERAL and not fused)
            if refused and getattr(self, each.name) != each.default:
                raise LtsRayError(f"training.{each.name} is for a universal model, not for a backbone: leave it out")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from learning_rate to final_learning_rate. step: from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A whole run.

    architecture: what to train in place of a universal model, one or several fused; `model` is then left alone.
    init_from: a checkpoint folder, of either kind, whose weights, shape and tokenizer the run starts from.
    """

    model: ModelSettings = ModelSettings()
    architecture: BackboneConfig | SupernetConfig | None = None
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    init_from: str | None = None

    def __post_init__(self) -> None:
        if self.init_from is not None:
            check_text(self.init_from, "init_from")
        if self.architecture is None:
            if self.init_from is None:
                self.training.objective_of(self.model.names)
            elif self.model.independent:
                raise LtsRayError("model.independent is for a fresh model: a run cannot have it and init_from")
            return
        if self.model != ModelSettings():
            raise LtsRayError(TWO_MODELS)
        self.training.check_backbone(fused=isinstance(self.architecture, SupernetConfig))
        if isinstance(self.architecture, SupernetConfig):
            self.training.objective_of(self.architecture.members)
        if self.init_from is not None:
            raise LtsRayError("a run starts from an architecture or from a checkpoint (init_from), not from both")

    @property
    def vocab_size(self) -> int:
        """What a tokenizer that is trained here may have."""
        return self.model.vocab_size if self.architecture is None else self.architecture.vocab_size

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        if self.architecture is None:
            return value
        return {name: each for name, each in value.items() if name != "model"} | {
            "architecture": self.architecture.to_json()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        check_known([each.name for each in fields(cls)], value, "the configuration")
        section = section_of(TrainingSettings, value, "training")
        if "objective" not in section and section.get("weights") == dict.fromkeys(GRANULARITIES, 1.0):
            del section["weights"]  # what runs wrote before `equal` had a name, whatever they trained
        if isinstance(section.get("betas"), list):
            section["betas"] = tuple(section["betas"])
        training = TrainingSettings(**section)
        architecture = None
        if value.get("architecture") is not None:
            if value.get("model") is not None:
                raise LtsRayError(TWO_MODELS)
            architecture = architecture_of(
                value["architecture"], vocab_size=ModelSettings.vocab_size, context_length=training.sequence_length
            )
        return cls(
            model=ModelSettings(**section_of(ModelSettings, value, "model")),
            architecture=architecture,
            data=DataSettings(**section_of(DataSettings, value, "data")),
            training=training,
            init_from=value.get("init_from"),
        )


def load_run_settings(path: Path) -> RunSettings:
    """Read a run's YAML. Raises LtsRayError for a missing file, bad YAML, or unknown or unusable keys."""
    raw = read_yaml(path, what="configuration")
    if not isinstance(raw, dict):
        raise LtsRayError(f"configuration {path} must be a mapping with the sections model, data and training")
    return RunSettings.from_json(raw)
