"""The runtime for CPUs: one call of our own kernels a step, from token ids to logits.

Every weight is read once a step, for all rows that need it, and stored once: a width is a prefix of the panels, and 4
bits are the upper plane of 8, so a change of either copies nothing. Weights are float32, bfloat16 or whole numbers of 8
or 4 bits; all else is float32, but that rows which meet whole numbers are rounded to 8 bits. A row's numbers are the
same to the last bit whatever else is in the step, however a prompt is cut into pieces and however many threads there
are: sums run over the inputs in order, one row at a time.
"""

from __future__ import annotations

import ctypes
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import PRECISIONS, QUANTISED
from lts_ray.quantisation.quantised_matrix import GROUP
from lts_ray.quantisation.quantised_weights import QuantisedWeights
from lts_ray.runtime.kernel_library import KernelLayer, KernelModel, KernelRows, constant, kernel_library, thread_steps
from lts_ray.runtime.packed_model import PackedModel
from lts_ray.runtime.panels import PANEL, empty, give_back, padded
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel

ROWS = 64
"""StepRoom for so many rows at first; it grows with the largest step."""
MOST_KEPT = 256
"""Sets of submodels, whose shapes are kept."""


class NativeRuntime:
    """Built from a model, which it does not keep: its weights are copied into panels. See `Runtime`, `build_runtime`.

    Raises LtsRayError where the kernels were not compiled, the model is not in float32 on the CPU, or its layers differ
    in heads.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        model: MatFormer,
        *,
        n_blocks: int,
        threads: int,
        precisions: Sequence[str] = (STORED,),
        quantised: QuantisedWeights | None = None,
        half_cache: bool = False,
        kind: int = -1,
    ) -> None:
        """half_cache: keep keys and values in bfloat16. kind: of CPU to run as, of those that this one is; the last is
        the fastest."""
        library = kernel_library()
        if library is None:
            raise LtsRayError("the kernels are not compiled: install a C compiler, then install this package again")
        weight = model.weight
        if model.config.heads:
            raise LtsRayError("the kernels run models with as many heads in all layers")
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise LtsRayError(f"the kernels run float32 on the CPU; got {weight.dtype} on {weight.device}")
        self.config: MatFormerConfig = model.config
        self.n_blocks, self.precisions = n_blocks, tuple(precisions)
        self._library, self._work = library, thread_steps(library)[kind]
        self._packed = PackedModel.of(model, precisions, quantised)
        config = self.config
        keys, values = (config.n_kv_head * BLOCK_TOKENS * padded(config.d_head, unit) for unit in (1, PANEL))
        stride, size = config.n_layer * (keys + values), 2 if half_cache else 4
        self._cache = empty(n_blocks * stride * size // 4)
        at = self._cache.data_ptr()
        self._layers = (KernelLayer * config.n_layer)(
            *(
                KernelLayer(
                    **self._packed.layer(index),
                    keys=at + size * index * (keys + values),
                    values=at + size * (index * (keys + values) + keys),
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
            block_stride=stride,
            half_cache=half_cache,
            eps=config.rms_norm_eps,
            layers=self._layers,
            **self._packed.shared(),
        )
        self._model_at = ctypes.addressof(self._model)
        team = library.lts_team_new(threads)
        if not team:
            raise LtsRayError(f"the system gives no {threads} threads")
        self._team = team
        # Not when the interpreter ends: a thread may be in the middle of a step, and the system frees all anyway.
        finalize(self, library.lts_team_free, team).atexit = False
        self._threads = threads
        self._submodels: dict[tuple[Submodel, ...], _Submodels] = {}
        self._make_room(rows=ROWS)
        self._make_logits(rows=ROWS // 8)

    @property
    def kept_bytes(self) -> int:
        logits = self._logits[-1].untyped_storage()
        return self._cache.nbytes + logits.nbytes() + sum(tensor.nbytes for tensor in self._room.memory.values())

    def forget(self) -> None:
        give_back(self._cache)

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Raises LtsRayError, before anything is written, for tokens, places or blocks that there are not."""
        if not segments:
            raise LtsRayError("a step has no segments")
        first = segments[0].submodel.precision
        if len(self.precisions) > 1 and any(segment.submodel.precision != first for segment in segments):
            return self._run_mixed(segments)
        return self._run(segments, [])

    def _run_mixed(self, segments: Sequence[Segment]) -> Tensor:
        """The kernels want rows of a precision together."""
        order = sorted(range(len(segments)), key=lambda place: self._rank(segments[place].submodel))
        asking = [place for place, segment in enumerate(segments) if segment.wants_logits]
        target = {place: row for row, place in enumerate(asking)}
        return self._run([segments[place] for place in order], [target[place] for place in order if place in target])

    def _rank(self, submodel: Submodel) -> int:
        """The place of its precision in PRECISIONS. Raises LtsRayError for one that is not served."""
        precision = submodel.precision or self.precisions[0]
        if precision not in self.precisions:
            raise LtsRayError(f"this runtime has {', '.join(self.precisions)}; a segment asks for {precision}")
        return PRECISIONS.index(precision)

    def _run(self, segments: Sequence[Segment], targets: list[int]) -> Tensor:
        """segments: by precision. targets: which row of logits each that wants them gets; empty: in this order."""
        lists: tuple[list[int], ...] = ([], [], [], [], [], targets, [])
        tokens, places, table, chosen, wants, _, blocks = lists
        submodels: dict[Submodel, int] = {}
        last, number = None, 0
        for segment in segments:
            piece, start, held = segment.tokens, segment.start, segment.blocks
            count = len(piece)
            if not 0 <= start < start + count <= min(len(held) * BLOCK_TOKENS, self.config.context_length):
                raise LtsRayError(self._misfit(segment))
            if segment.submodel is not last:
                last = segment.submodel
                number = submodels.setdefault(last, len(submodels))
            tokens += piece
            if count == 1:
                places.append(start)
                table.append(len(blocks))
                chosen.append(number)
            else:
                places += range(start, start + count)
                table += [len(blocks)] * count
                chosen += [number] * count
            blocks += held
            if segment.wants_logits:
                wants.append(len(tokens) - 1)
        if max(tokens) >= self.config.vocab_size or min(tokens) < 0:
            raise LtsRayError(f"a token id is not below the vocabulary's size, {self.config.vocab_size}")
        if max(blocks) >= self.n_blocks or min(blocks) < 0:
            raise LtsRayError(f"a block is not one of the cache's {self.n_blocks}")
        shapes = self._shapes_of(tuple(submodels))
        n_rows = len(tokens)
        if n_rows > self._room.rows:
            self._make_room(rows=2 * n_rows)
        if len(wants) >= len(self._logits):
            self._make_logits(rows=2 * len(wants))
        rows = self._rows
        rows.logits = self._logits_at
        rows.rows, rows.logit_rows, rows.apart = n_rows, len(wants), n_rows == len(segments)
        rows.dims, rows.heads = shapes.dims, shapes.heads
        rows.most_heads, rows.d_used = shapes.most_heads, shapes.d_used
        numbers = array("i", chain.from_iterable(lists))  # one piece of memory for them all
        at, n_bytes = numbers.buffer_info()[0], numbers.itemsize * n_rows
        rows.tokens, rows.places, rows.table = at, at + n_bytes, at + 2 * n_bytes
        rows.submodels, rows.wants = at + 3 * n_bytes, at + 4 * n_bytes
        rows.targets = rows.wants + numbers.itemsize * len(wants) if targets else None
        rows.blocks = rows.wants + numbers.itemsize * (len(wants) + len(targets))
        shapes.divide(rows, chosen, wants)
        self._library.lts_step(self._work, self._model_at, self._rows_at, self._team, len(submodels), shapes.widths)
        return self._logits[len(wants)]

    def _misfit(self, segment: Segment) -> str:
        """The kernels follow every number that they are given: none may lead out of the memory that is theirs."""
        if not segment.tokens:
            return "a segment has no tokens"
        return (
            f"a segment's places {segment.start} to {segment.stop - 1} do not fit its {len(segment.blocks)} blocks "
            f"and the context of {self.config.context_length} tokens"
        )

    def _make_room(self, *, rows: int) -> None:
        self._room = StepRoom(self._library, self.config, self.precisions, rows=rows, threads=self._threads)
        self._rows = KernelRows(**self._room.fields)
        self._rows_at = ctypes.addressof(self._rows)

    def _make_logits(self, *, rows: int) -> None:
        memory = torch.empty(rows, padded(self.config.vocab_size))
        self._logits_at = memory.data_ptr()
        self._logits = [memory[:count, : self.config.vocab_size] for count in range(rows + 1)]
        """By the number of rows: torch takes longer to cut a tensor than a step's row takes in all of `run`."""

    def _shapes_of(self, submodels: tuple[Submodel, ...]) -> _Submodels:
        shapes = self._submodels.get(submodels)
        if shapes is None:
            if len(self._submodels) >= MOST_KEPT:
                self._submodels.clear()
            checked = [self.config.check(submodel) for submodel in submodels]
            ranks = [self._rank(submodel) for submodel in submodels]
            shapes = self._submodels[submodels] = _Submodels(checked, ranks, self.config)
        return shapes


def _starts(ranks: Sequence[int]) -> list[int]:
    """Where rows of each precision begin, and the last end. ranks: in growing order."""
    return [bisect_left(ranks, rank) for rank in range(len(PRECISIONS) + 1)]


class _Submodels:
    """Those of a step, as the kernels read them: with heads and d_model also where they are the model's.

    widths and heads, [submodels, n_layer], dims, [submodels], and most_heads, [n_layer], are addresses.
    """

    def __init__(self, submodels: Sequence[Submodel], ranks: Sequence[int], config: MatFormerConfig) -> None:
        """ranks: the places of their precisions in PRECISIONS."""
        self.ranks, self.is_mixed = ranks, len(set(ranks)) > 1
        widths = [submodel.widths for submodel in submodels]
        dims = [submodel.d_model or config.d_model for submodel in submodels]
        heads = [submodel.heads or config.layer_heads for submodel in submodels]
        most_heads = [max(layer) for layer in zip(*heads, strict=True)]
        self._memory = [np.array(values, dtype=np.int32) for values in (widths, dims, heads, most_heads)]
        self.widths, self.dims, self.heads, self.most_heads = (array.ctypes.data for array in self._memory)
        self.d_used = max(dims)

    def divide(self, rows: KernelRows, chosen: Sequence[int], wants: Sequence[int]) -> None:
        """Say where rows of each precision begin. chosen: the number of each row's submodel; wants: rows."""
        if self.is_mixed:
            of_rows = [self.ranks[number] for number in chosen]
            rows.starts[:] = _starts(of_rows)
            rows.logit_starts[:] = _starts([of_rows[row] for row in wants])
        else:
            before, behind = [0] * (self.ranks[0] + 1), len(PRECISIONS) - self.ranks[0]
            rows.starts[:] = before + [len(chosen)] * behind
            rows.logit_starts[:] = before + [len(wants)] * behind


class StepRoom:
    """Memory for what is in between, for up to `rows` rows."""

    def __init__(
        self, library: ctypes.CDLL, config: MatFormerConfig, precisions: Sequence[str], *, rows: int, threads: int
    ) -> None:
        d_model = padded(config.d_model)
        scores = constant(library, "heads_at_once") * padded(config.context_length, PANEL)
        few, widest = constant(library, "few_rows") * threads, padded(max(config.widths))
        is_rounded, has_floats = (any((each in QUANTISED) == asked for each in precisions) for asked in (True, False))
        groups = -(-max(config.d_model, config.n_head * config.d_head) // GROUP)
        floats = {
            "x": rows * d_model,
            "normed": rows * d_model,
            "own": few * d_model,
            "qkv": rows * padded((config.n_head + 2 * config.n_kv_head) * config.d_head),
            "mixed": rows * config.n_head * config.d_head,
            "inner": rows * widest * has_floats,
            "scores": threads * scores,
        }
        memory = {name: torch.zeros(size) for name, size in floats.items()}
        memory |= {name: torch.zeros(config.n_layer * rows, dtype=torch.int32) for name in ("order", "widths")}
        group_bytes = constant(library, "group_bytes") * is_rounded
        rounded = {"rounded": rows * groups, "own_rounded": few * groups, "inner_rounded": rows * widest // GROUP}
        memory |= {name: torch.zeros(size * group_bytes, dtype=torch.uint8) for name, size in rounded.items()}
        phases = library.lts_phases(config.n_layer) * constant(library, "phase_bytes")
        memory["phases"] = torch.zeros(phases // 8, dtype=torch.int64)
        self.rows, self.memory = rows, memory
        self.fields = {name: tensor.data_ptr() for name, tensor in memory.items()}
        self.fields |= {"scores_size": scores, "rounded_size": groups}
        """Of KernelRows."""
