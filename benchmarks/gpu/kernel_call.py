"""The launches of one step, each to be begun alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lts_ray.runtime.segment import Segment


@dataclass(frozen=True)
class KernelCall:
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    @cached_property
    def name(self) -> str:
        """The products that lead into the residual are told apart by what they read."""
        name = str(self.kernel.fn.__name__)
        return f"{name} of {self.constants['K']}" if "K" in self.constants else name

    @cached_property
    def given(self) -> dict[str, Any]:
        """All arguments by name."""
        return dict(zip(self.kernel.arg_names, self.arguments, strict=False)) | self.constants

    @property
    def how(self) -> str:
        """Its tile, or of attention its parts, and the compiler's options."""
        words = {"BM": "", "BN": "x", "BK": "x", "ROWS": "rows ", "SPLITS": " splits ", "CHUNK": " chunk "}
        words |= {"num_warps": " warps ", "num_stages": " stages "}
        return "".join(f"{word}{self.constants[name]}" for name, word in words.items() if name in self.constants)

    def run(self) -> Any:
        """Triton's compiled kernel."""
        return self.kernel[self.grid](*self.arguments, **self.constants)

    def compile(self) -> None:
        self.kernel.warmup(*self.arguments, grid=self.grid, **self.constants)


def data_of(runtime: Any, segments: Sequence[Segment]) -> Any:
    """Where a step of such segments, all of which want logits, is told of them."""
    from lts_ray.runtime.cuda.bucket import bucket_for

    pieces = [len(segment.tokens) for segment in segments if len(segment.tokens) > 1]
    steps = runtime._steps
    return steps._data_of(bucket_for(len(segments) - len(pieces), pieces, len(segments), tile=steps._tile))


def kernel_calls(runtime: Any, data: Any, *, tiles: Any = None, early: bool = False) -> list[KernelCall]:
    """Of the step that the runtime has last done with that data, in their order. tiles: None: what it takes."""
    from lts_ray.runtime.cuda.launch import StepLaunch
    from lts_ray.runtime.cuda.tiles import step_tiles

    steps, found = runtime._steps, list[KernelCall]()

    def record(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        found.append(KernelCall(kernel, grid, arguments, constants))

    weights = steps._weights
    tiles = tiles or step_tiles(weights.config, data.bucket, steps.memory.q.element_size())
    StepLaunch(weights, steps.memory, data, tiles, early, record).step(weights.layers)
    return found
