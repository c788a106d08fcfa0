"""The runtime for GPUs: fused kernels, replayed from CUDA graphs, in which the widths of all rows and layers are data.

A graph a size of step serves every submodel and every mixture of them, so that a change of width captures nothing. The
token is chosen where the logits are: only ids come back, and the next step may be begun before they are there. Weights
are in the model's dtype, sums in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.pick import ChosenToken, Pick
from lts_ray.runtime.cuda.block_tables import BlockTables
from lts_ray.runtime.cuda.bucket import LARGEST
from lts_ray.runtime.cuda.cuda_steps import CudaSteps
from lts_ray.runtime.cuda.step_rows import StepRows
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment

MOST_BLOCKS = 2**20
"""Of all block tables of a launch together, unless one is longer."""


class CudaRuntime:
    """A `ChoosingRuntime`. It keeps the model's weights where they are; rows are what they would be alone up to
    rounding. On a CPU it runs in Triton's interpreter, for tests.

    Raises LtsRayError where the model's layers differ in heads.
    """

    precisions = (STORED,)

    def __init__(self, model: MatFormer, *, n_blocks: int, early: bool | None = None) -> None:
        """early: see CudaSteps."""
        if model.config.heads:
            raise LtsRayError("the kernels run models with as many heads in all layers")
        self.config, self.n_blocks = model.config, n_blocks
        self.device = model.weight.device
        self._table = -(-self.config.context_length // BLOCK_TOKENS)
        self._most_blocks = max(self._table, min(MOST_BLOCKS, LARGEST.rows * self._table))
        self._tables = BlockTables(n_blocks)
        self._picked = 0
        """Tokens of the step begun last that the next one may ask for."""
        with self._here():
            self._steps = CudaSteps(
                model, n_blocks=n_blocks, block_tokens=BLOCK_TOKENS, most_blocks=self._most_blocks, early=early
            )

    def prepare(self) -> None:
        """Compile and capture what most steps need; what is left out is when a step first needs it."""
        with self._here():
            self._steps.prepare()

    @property
    def kept_bytes(self) -> int:
        return self._steps.nbytes

    def forget(self) -> None:
        """The graphs hold the cache's address, so that none of it is given back."""

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Raises LtsRayError, before anything is written, for tokens, places or blocks that there are not."""
        parts, self._picked = self._rows(segments, picked=0), 0
        found = []
        with self._here():
            for part in parts:
                self._steps.run(part)
                found.append(_on_its_way(self._steps.memory.logits[: len(part.wants)]))
            if self.device.type == "cuda":
                torch.cuda.current_stream().synchronize()
        return found[0] if len(found) == 1 else torch.cat(found)

    def begin(self, segments: Sequence[Segment], picks: Sequence[Pick]) -> BegunCudaStep:
        """Raises LtsRayError as `run` does."""
        parts = self._rows(segments, picked=self._picked)
        if len(picks) != sum(len(part.wants) for part in parts):
            raise LtsRayError(f"{len(picks)} picks for {sum(len(part.wants) for part in parts)} segments that ask")
        chosen = self._steps.memory.chosen
        with self._here():
            if len(parts) == 1:
                details = [self._begin(parts[0], picks, 0)]
            else:  # each part writes where the next one reads what the step before has chosen
                before, after, details, at = chosen[: self._picked].clone(), chosen.clone(), [], 0
                for part in parts:
                    chosen[: self._picked] = before
                    stop = at + len(part.wants)
                    details.append(self._begin(part, picks[at:stop], at))
                    after[at:stop] = chosen[: stop - at]
                    at = stop
                chosen.copy_(after)
            self._picked = len(picks)
            tokens, done = _on_its_way(chosen[: len(picks)]), None
            if self.device.type == "cuda":
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record()
        return BegunCudaStep(tokens, [each for each in details if each], done)

    def _begin(self, part: StepRows, picks: Sequence[Pick], first: int) -> _Details | None:
        """first: the place of the first of these picks among the step's."""
        self._steps.run(part, picks)
        asking = [(place, pick.logprobs) for place, pick in enumerate(picks) if pick.logprobs is not None]
        if not asking:
            return None
        memory = self._steps.memory
        places = torch.tensor([place for place, _ in asking], pin_memory=self.device.type == "cuda")
        places = places.to(self.device, non_blocking=True)
        shares = torch.log_softmax(memory.logits[places], dim=-1)
        own = shares.gather(1, memory.chosen[places].clamp(min=0).long()[:, None])[:, 0]
        top = shares.topk(min(max(n for _, n in asking), shares.shape[1]))
        return _Details([(first + place, n) for place, n in asking], *map(_on_its_way, (own, top.indices, top.values)))

    def _rows(self, segments: Sequence[Segment], *, picked: int) -> list[StepRows]:
        """Of each launch: one, unless the step is larger than the largest bucket."""
        if not segments:
            raise LtsRayError("a step has no segments")
        self._steps.shapes.begin_step()
        return [self._rows_of(part, picked) for part in self._parts(segments)]

    def _rows_of(self, segments: Sequence[Segment], picked: int) -> StepRows:
        shapes, limit = self._steps.shapes, self.config.context_length
        # By the submodel's number: places among the segments.
        singles, pieces = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
        last, number = None, 0
        for place, segment in enumerate(segments):
            count, start = len(segment.tokens), segment.start
            stop = start + count
            if not 0 <= start < stop <= limit or stop > len(segment.blocks) * BLOCK_TOKENS:
                raise LtsRayError(self._misfit(segment))
            if segment.submodel is not last:
                last = segment.submodel
                number = shapes.number(last)
            (singles if count == 1 else pieces)[number].append(place)
        # The widest first: tiles of rows are as wide as their widest.
        numbers = [sorted(kind, key=shapes.ranks.__getitem__) for kind in (singles, pieces)]
        ones = [place for number in numbers[0] for place in singles[number]]
        ordered = [segments[place] for place in ones]
        rows, row_of = StepRows(), [0] * len(segments)
        rows.tokens = [segment.tokens[0] for segment in ordered]
        rows.positions = [segment.start for segment in ordered]
        rows.shapes = [number for number in numbers[0] for _ in singles[number]]
        for row, place in enumerate(ones):
            row_of[place] = row
        ordered += [segments[place] for number in numbers[1] for place in pieces[number]]
        begins = [0, *accumulate([len(segment.blocks) for segment in ordered])]
        rows.tables = begins[: len(ones)]
        for number in numbers[1]:
            for place in pieces[number]:
                segment = segments[place]
                count = len(segment.tokens)
                rows.tables += [begins[len(ones) + len(rows.pieces)]] * count
                rows.positions += range(segment.start, segment.start + count)
                rows.shapes += [number] * count
                rows.pieces.append(count)
                rows.tokens += segment.tokens
                row_of[place] = len(rows.tokens) - 1
        if max(rows.tokens) >= self.config.vocab_size:
            raise LtsRayError(f"a token id is not below the vocabulary's size, {self.config.vocab_size}")
        if min(rows.tokens) < -picked:
            raise LtsRayError(f"a token is below 0, and none of the {picked} that the step before is choosing")
        rows.blocks = self._tables.joined([segment.blocks for segment in ordered])
        rows.wants = [row for row, segment in zip(row_of, segments, strict=True) if segment.wants_logits]
        return rows

    def _parts(self, segments: Sequence[Segment]) -> Sequence[Sequence[Segment]]:
        """In order, each of no more than the largest bucket holds."""
        few = min(LARGEST.singles, LARGEST.wants, self._most_blocks // self._table)
        if len(segments) <= few and sum([len(segment.tokens) for segment in segments]) <= LARGEST.rows:
            return [segments]
        parts: list[list[Segment]] = [[]]
        room = np.array([LARGEST.singles, LARGEST.rows, LARGEST.wants, self._most_blocks])
        taken = 0 * room
        for segment in chain.from_iterable(map(self._cut, segments)):
            count = len(segment.tokens)
            takes = np.array([count == 1, count, segment.wants_logits, len(segment.blocks)])
            if parts[-1] and (taken + takes > room).any():
                parts.append([])
                taken = 0 * room
            parts[-1].append(segment)
            taken = taken + takes
        return parts

    def _cut(self, segment: Segment) -> Iterator[Segment]:
        """Into pieces that a bucket holds; of them only the last one's logits are asked for."""
        most, count = LARGEST.rows, len(segment.tokens)
        if count <= most:
            yield segment
            return
        for at in range(0, count, most):
            stop = min(at + most, count)
            yield replace(
                segment,
                tokens=segment.tokens[at:stop],
                start=segment.start + at,
                wants_logits=segment.wants_logits and stop == count,
            )

    def _misfit(self, segment: Segment) -> str:
        """The kernels follow every number that they are given: none may lead out of the memory that is theirs."""
        if not segment.tokens:
            return "a segment has no tokens"
        return (
            f"a segment's places {segment.start} to {segment.stop - 1} do not fit its {len(segment.blocks)} blocks "
            f"and the context of {self.config.context_length} tokens"
        )

    def _here(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


@dataclass(frozen=True, slots=True)
class _Details:
    """Log probabilities of some picks, on their way to the CPU."""

    asking: Sequence[tuple[int, int]]
    """The picks' places, and how many tokens each asked for."""
    own: Tensor
    """[len(asking)]; top_ids, top_values: [len(asking), the most that one asked for]."""
    top_ids: Tensor
    top_values: Tensor


@dataclass(frozen=True, slots=True)
class BegunCudaStep:
    _tokens: Tensor
    _details: Sequence[_Details]
    _done: torch.cuda.Event | None
    """Behind the copies of the others; None: they are there."""

    def chosen(self) -> list[ChosenToken]:
        """See BegunStep."""
        if self._done is not None:
            self._done.synchronize()
        found = [ChosenToken(token) for token in self._tokens.tolist()]
        for each in self._details:
            columns = (each.own.tolist(), each.top_ids.tolist(), each.top_values.tolist())
            for (place, n), own, ids, values in zip(each.asking, *columns, strict=True):
                found[place] = ChosenToken(found[place].token, own, tuple(zip(ids[:n], values[:n], strict=True)))
        return found


def _on_its_way(values: Tensor) -> Tensor:
    """A copy on the CPU, there once the device is done; pinned, where values are on a device."""
    return values.to("cpu", non_blocking=True, copy=True)
