"""The runtime for CPUs in float32: one call of our own kernels a step, from token ids to logits.

Every weight is read once a step, for all rows that need it, and stored once: a width is a prefix of the panels, so a
change of width copies nothing. A row's numbers are the same to the last bit whatever else is in the step, however a
prompt is cut into pieces and however many threads there are: sums run over the inputs in order, one row at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.kernel_library import KernelLayer, KernelModel, KernelRows, constant, kernel_library, thread_steps
from lts_ray.runtime.packed_model import PackedModel
from lts_ray.runtime.panels import PANEL, empty, padded
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel

Integers = NDArray[np.int32]
ROWS = 64
"""StepRoom for so many rows at first; it grows with the largest step."""


class NativeRuntime:
    """Built from a model, which it does not keep: its weights are copied into panels. See `Runtime`.

    Raises LtsRayError where the kernels were not compiled, the model is not in float32 on the CPU, or its layers differ
    in heads.
    """

    def __init__(self, model: MatFormer, *, n_blocks: int, threads: int, kind: int = -1) -> None:
        """kind: of CPU to run as, of those that this one is; the last is the fastest."""
        library = kernel_library()
        if library is None:
            raise LtsRayError("the kernels are not compiled: install a C compiler, then install this package again")
        weight = model.weight
        if model.config.heads:
            raise LtsRayError("the kernels run models with as many heads in all layers")
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise LtsRayError(f"the kernels run float32 on the CPU; got {weight.dtype} on {weight.device}")
        self.config: MatFormerConfig = model.config
        self.n_blocks = n_blocks
        self._library, self._work = library, thread_steps(library)[kind]
        self._packed = PackedModel.of(model)
        config = self.config
        d_value = padded(config.d_head, PANEL)
        per_layer = n_blocks * config.n_kv_head * BLOCK_TOKENS * (config.d_head + d_value)
        self._cache = empty(config.n_layer * per_layer)
        at, values = self._cache.data_ptr(), 4 * n_blocks * config.n_kv_head * BLOCK_TOKENS * config.d_head
        self._layers = (KernelLayer * config.n_layer)(
            *(
                KernelLayer(
                    **self._packed.layer(index),
                    keys=at + 4 * index * per_layer,
                    values=at + 4 * index * per_layer + values,
                    width=config.widths[index],
                )
                for index in range(config.n_layer)
            )
        )
        self._model = KernelModel(
            n_layer=config.n_layer,
            d_model=config.d_model,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            d_head=config.d_head,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            activation=constant(library, config.family.activation),
            gated=config.family.gated,
            layer_norm=config.family.norm == "layer",
            fan_in=padded(max(config.widths)),
            eps=config.rms_norm_eps,
            layers=self._layers,
            **self._packed.shared(),
        )
        team = library.lts_team_new(threads)
        if not team:
            raise LtsRayError(f"the system gives no {threads} threads")
        self._team = team
        # Not when the interpreter ends: a thread may be in the middle of a step, and the system frees all anyway.
        finalize(self, library.lts_team_free, team).atexit = False
        self._threads = threads
        self._shapes: dict[Submodel, _Shape] = {}
        self._room = StepRoom(library, config, rows=ROWS, threads=threads)
        self._logits = torch.empty(0, padded(config.vocab_size))

    @property
    def kept_bytes(self) -> int:
        return self._cache.nbytes + self._logits.nbytes + sum(tensor.nbytes for tensor in self._room.memory.values())

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Raises LtsRayError, before anything is written, for tokens, places or blocks that there are not."""
        if not segments:
            raise LtsRayError("a step has no segments")
        tokens: list[int] = []
        places: list[int] = []
        table: list[int] = []
        blocks: list[int] = []
        chosen: list[int] = []
        wants: list[int] = []
        submodels: dict[Submodel, int] = {}
        for segment in segments:
            self._check(segment)
            count = len(segment.tokens)
            tokens += segment.tokens
            places += range(segment.start, segment.start + count)
            table += [len(blocks)] * count
            chosen += [submodels.setdefault(segment.submodel, len(submodels))] * count
            blocks += segment.blocks
            if segment.wants_logits:
                wants.append(len(tokens) - 1)
        if len(tokens) > self._room.rows:
            self._room = StepRoom(self._library, self.config, rows=2 * len(tokens), threads=self._threads)
        if len(wants) > len(self._logits):
            self._logits = torch.empty(2 * len(wants), padded(self.config.vocab_size))
        if max(tokens) >= self.config.vocab_size or min(tokens) < 0:
            raise LtsRayError(f"a token id is not below the vocabulary's size, {self.config.vocab_size}")
        if max(blocks) >= self.n_blocks or min(blocks) < 0:
            raise LtsRayError(f"a block is not one of the cache's {self.n_blocks}")
        shapes = [self._shape_of(submodel) for submodel in submodels]
        widths = np.concatenate([shape.widths for shape in shapes])
        dims = np.asarray([shape.d_model for shape in shapes], dtype=np.int32)
        heads = np.stack([shape.heads for shape in shapes])
        lists = {
            "tokens": tokens,
            "places": places,
            "table": table,
            "blocks": blocks,
            "submodels": chosen,
            "wants": wants,
        }
        arrays = {name: np.asarray(values, dtype=np.int32) for name, values in lists.items()}
        arrays |= {"dims": dims, "heads": heads, "most_heads": heads.max(axis=0)}
        rows = KernelRows(
            rows=len(tokens),
            logit_rows=len(wants),
            apart=len(tokens) == len(segments),
            d_used=int(dims.max()),
            logits=self._logits.data_ptr(),
            **{name: array.ctypes.data for name, array in arrays.items()},
            **self._room.fields,
        )
        self._library.lts_step(
            self._work,
            ctypes.byref(self._model),
            ctypes.byref(rows),
            self._team,
            len(submodels),
            widths.ctypes.data,
        )
        return self._logits[: len(wants), : self.config.vocab_size]

    def _check(self, segment: Segment) -> None:
        """The kernels follow every number that they are given: none may lead out of the memory that is theirs."""
        if not segment.tokens:
            raise LtsRayError("a segment has no tokens")
        room = min(len(segment.blocks) * BLOCK_TOKENS, self.config.context_length)
        if segment.start < 0 or segment.stop > room:
            raise LtsRayError(
                f"a segment's places {segment.start} to {segment.stop - 1} do not fit its {len(segment.blocks)} blocks "
                f"and the context of {self.config.context_length} tokens"
            )

    def _shape_of(self, submodel: Submodel) -> _Shape:
        if submodel not in self._shapes:
            self._shapes[submodel] = _Shape.of(self.config.check(submodel), self.config)
        return self._shapes[submodel]


@dataclass(frozen=True)
class _Shape:
    """A submodel, as the kernels read it: with its heads and d_model also where they are the model's."""

    widths: Integers
    """[n_layer]; so are heads."""
    heads: Integers
    d_model: int

    @classmethod
    def of(cls, submodel: Submodel, config: MatFormerConfig) -> _Shape:
        return cls(
            widths=np.asarray(submodel.widths, dtype=np.int32),
            heads=np.asarray(submodel.heads or config.layer_heads, dtype=np.int32),
            d_model=submodel.d_model or config.d_model,
        )


class StepRoom:
    """Memory for what is in between, for up to `rows` rows."""

    def __init__(self, library: ctypes.CDLL, config: MatFormerConfig, *, rows: int, threads: int) -> None:
        d_model = padded(config.d_model)
        scores = constant(library, "heads_at_once") * padded(config.context_length, PANEL)
        floats = {
            "x": rows * d_model,
            "normed": rows * d_model,
            "own": constant(library, "few_rows") * threads * d_model,
            "qkv": rows * padded((config.n_head + 2 * config.n_kv_head) * config.d_head),
            "mixed": rows * config.n_head * config.d_head,
            "inner": rows * padded(max(config.widths)),
            "scores": threads * scores,
        }
        memory = {name: torch.zeros(size) for name, size in floats.items()}
        memory |= {name: torch.zeros(config.n_layer * rows, dtype=torch.int32) for name in ("order", "widths")}
        phases = library.lts_phases(config.n_layer) * constant(library, "phase_bytes")
        memory["phases"] = torch.zeros(phases // 8, dtype=torch.int64)
        self.rows, self.memory = rows, memory
        self.fields = {name: tensor.data_ptr() for name, tensor in memory.items()} | {"scores_size": scores}
        """Of KernelRows."""
