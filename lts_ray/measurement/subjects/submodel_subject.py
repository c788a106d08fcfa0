"""A submodel as it is measured: a slice of a universal model that is in memory whole, run by what would serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.checkpoints.universal import build_universal
from lts_ray.errors import LtsRayError
from lts_ray.measurement.subjects.subject import RanIn, prepare
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.hugging_face.quantised_file import to_planes
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.universal_model import UniversalModel
from lts_ray.precision import WEIGHT_BYTES
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix
from lts_ray.quantisation.quantised_weights import FINE, QuantisedWeights, matrices_of
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime, run_as_served
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel
from lts_ray.target import Target

Weights = Mapping[str, object]
"""A state dict as NumPy arrays, which Ray shares between the processes of a node without copying."""


@dataclass(frozen=True)
class RowBlocks:
    """A cache in a runtime's memory. blocks: each row's; lengths: as a `Cache` has them."""

    blocks: Sequence[Sequence[int]]
    lengths: Tensor


@dataclass(frozen=True)
class SubmodelSubject:
    """A slice of a universal model that is in memory whole, run by what would serve it."""

    universal: UniversalSubjects
    submodel: Submodel
    takes_tokens_on = torch.device("cpu")
    """A segment's are numbers of Python's."""

    @property
    def vocab_size(self) -> int:
        return self.universal.runtime.config.vocab_size

    @property
    def device(self) -> torch.device:
        return self.universal.device

    @property
    def ran_in(self) -> RanIn:
        return "torch" if isinstance(self.universal.runtime, TorchRuntime) else "kernels"

    @property
    def context_length(self) -> int:
        return self.universal.runtime.config.context_length

    @property
    def weight_bytes(self) -> int:
        """Of the submodel served alone: embeddings, layers as wide as it has them, norms, table of rotary positions.

        In 4 bits that is the upper plane: beside an 8-bit one, in a copy of both, it would take nothing more.
        """
        runtime, of_one = self.universal.runtime, self.universal.dtype.itemsize
        config, precision = runtime.config, self.submodel.precision or runtime.precisions[0]
        saved = 0.0
        if precision != STORED:
            assert isinstance(config, MatFormerConfig), "other models run in one precision"
            with torch.device("meta"):
                matrices = matrices_of(MatFormer(config.extracted(self.submodel)))
            for name, matrix in matrices.items():
                kept_in = "int8" if precision == "int4" and name in FINE else precision
                saved += (of_one - WEIGHT_BYTES[kept_in]) * matrix.numel()
        return round(config.parameters(self.submodel) * of_one - saved) + self.universal.table_bytes

    @property
    def kept_bytes(self) -> int:
        return self.universal.runtime.kept_bytes

    def empty_cache(self, *, rows: int, length: int) -> RowBlocks:
        """All caches lie in the same blocks: a step takes as long whatever finite numbers it reads there."""
        each = blocks_of(length)
        blocks = [range(row * each, (row + 1) * each) for row in range(rows)]
        return RowBlocks(blocks=blocks, lengths=torch.zeros(rows, dtype=torch.int64))

    def run(self, tokens: Tensor, cache: RowBlocks) -> None:
        rows = zip(tokens.tolist(), cache.lengths.tolist(), cache.blocks, strict=True)
        run_as_served(
            self.universal.runtime,
            [
                Segment(tokens=row, start=start, blocks=blocks, submodel=self.submodel, wants_logits=True)
                for row, start, blocks in rows
            ],
        )
        cache.lengths.add_(tokens.shape[1])


@dataclass(frozen=True)
class UniversalSource:
    """The submodels of one universal model. Its payload is the weights."""

    config: DecoderConfig
    precisions: Sequence[str] | None = None
    """That they may ask for; None: what one runs in that asks for none."""

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def open(self, target: Target, payload: Weights) -> UniversalSubjects:
        model, quantised = model_from(self.config, payload)
        return UniversalSubjects.of(model, target, precisions=self.precisions, quantised=quantised)


@dataclass(frozen=True, kw_only=True)
class UniversalSubjects:
    """The runtime that would serve the model on a target, with a KV cache for the target's batch."""

    runtime: Runtime
    device: torch.device
    dtype: torch.dtype
    table_bytes: int

    @classmethod
    def of(
        cls,
        model: UniversalModel,
        target: Target,
        *,
        precisions: Sequence[str] | None = None,
        quantised: QuantisedWeights | None = None,
    ) -> UniversalSubjects:
        """Keeps the model itself only where the runtime does. precisions, quantised: as of `build_runtime`."""
        check_precisions(target, precisions)
        model = prepare(model, target)
        n_blocks = target.batch_size * blocks_of(target.sequence_length + 1)
        return cls(
            runtime=build_runtime(
                model, n_blocks=n_blocks, threads=target.threads, precisions=precisions, quantised=quantised
            ),
            device=model.weight.device,
            dtype=model.weight.dtype,
            table_bytes=sum(table.nbytes for table in model.buffers()),
        )

    @property
    def reference(self) -> SubmodelSubject:
        return SubmodelSubject(self, next(iter(self.runtime.config.trained.values())))

    def subject(self, candidate: Submodel) -> SubmodelSubject:
        return SubmodelSubject(self, self.runtime.config.check(candidate))


def blocks_of(tokens: int) -> int:
    """Blocks of a runtime's KV cache that a row of so many tokens needs."""
    return -(-tokens // BLOCK_TOKENS)


def weights_of(model: UniversalModel, quantised: QuantisedWeights | None) -> Weights:
    planes = {} if quantised is None else to_planes(quantised)
    return {name: value.numpy() for name, value in {**model.state_dict(), **planes}.items()}


def model_from(config: DecoderConfig, weights: Weights) -> tuple[UniversalModel, QuantisedWeights | None]:
    """The model, and how its matrices are rounded; None: to the nearest. weights: of `weights_of`."""
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    quantised = {
        name.removesuffix(".codes"): QuantisedMatrix(tensors.pop(name), tensors.pop(name[:-5] + "scales"))
        for name in weights
        if name.endswith(".codes")
    }
    model = build_universal(config)
    model.load_state_dict(tensors)
    return model.eval(), quantised or None


def check_precisions(target: Target, precisions: Sequence[str] | None) -> None:
    """Raises LtsRayError where the target's own type of numbers is another than what is to be rounded."""
    if (
        precisions is not None
        and tuple(precisions) != (STORED,)
        and (target.device, target.dtype) != ("cpu", "float32")
    ):
        raise LtsRayError(
            f"target {target.name!r} computes in {target.dtype} on {target.device}: only float32 on a CPU has "
            f"precisions to choose; got {', '.join(precisions)}"
        )
