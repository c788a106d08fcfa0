"""How large everything is that a check of a GPU runs: random models of known shapes; and how it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel
from lts_ray.timing import timed, waiter

SMALL, LARGE = "135M", "1B"
SHAPE = partial(MatFormerConfig, context_length=2_048)
SHAPES = {
    SMALL: SHAPE(vocab_size=49_152, d_model=576, n_head=9, n_kv_head=3, widths=(1_536,) * 30),
    LARGE: SHAPE(vocab_size=128_256, d_model=2_048, n_head=32, n_kv_head=8, widths=(8_192,) * 16),
}
"""Of SmolLM2-135M and of Llama-3.2-1B."""
CARD = torch.device("cuda")
STEPS_ARE_THE_CPUS = "tests/training/learners/test_learners.py::test_a_step_on_a_gpu_is_the_step_on_the_cpu"


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What a device can do, in a second."""

    copied: float
    """Bytes read and bytes written of a copy: what floors are by."""
    read: float
    """Bytes, by a kernel of torch's that only reads."""
    multiplied: float
    """Operations of a product of large matrices."""


def cuda_runtime(model: MatFormer, *, n_blocks: int, early: bool | None = None) -> Any:
    """Only on a card is Triton sure to be there. early: of CudaRuntime."""
    from lts_ray.runtime.cuda_runtime import CudaRuntime

    return CudaRuntime(model, n_blocks=n_blocks, early=early)


@dataclass(frozen=True, kw_only=True)
class CheckScale:
    """As a card runs it in some minutes."""

    device: torch.device = CARD
    runtime: Callable[..., Any] = cuda_runtime
    """Makes a ChoosingRuntime of a model, with n_blocks."""
    dtype: torch.dtype = torch.bfloat16
    exact: Sequence[torch.dtype] = (torch.bfloat16, torch.float16)
    """What is compared with float32."""
    shapes: Mapping[str, MatFormerConfig] = field(default_factory=lambda: SHAPES)
    rows: Sequence[int] = (1, 8, 32, 128)
    context: int = 256
    """Tokens before the one that a row decodes."""
    prompt: int = 1_024
    repeats: int = 20
    product: int = 8_192
    """Rows and columns of the matrices whose product, and copy, tell what the chip can do."""
    rival_rows: Sequence[int] = (1, 32)
    rival_tokens: int = 48
    d_models: Sequence[int] = (256, 512, 1_024)
    """Of the models that learn."""
    lessons: tuple[int, int, int, int] = (16, 32_768, 32, 1_024)
    """Their layers and vocabulary; sequences of a step, and tokens of each."""
    rounds: int = 3
    streams: tuple[int, int, int] = (64, 64, 128)
    """How many, and the tokens of each one's prompt and response."""
    calibration_s: float = 3.0
    tests: Sequence[str] = (
        "tests/benchmarks/test_step_kernels.py",
        "tests/runtime/triton_kernels",
        "tests/runtime/cuda",
        f"{STEPS_ARE_THE_CPUS}[float32-0.0001-False]",
        f"{STEPS_ARE_THE_CPUS}[bfloat16-0.05-False]",
    )
    test_workers: int = 6

    def model(self, config: MatFormerConfig, dtype: torch.dtype) -> MatFormer:
        """Fresh weights, drawn on the device, the same each time."""
        return MatFormer.fresh(config, torch.Generator(self.device).manual_seed(0)).to(dtype).eval()

    def wall_ms(self, step: Callable[[], object]) -> float:
        """Median time of a call until the device is done."""
        times = [timed(step, wait=waiter(self.device)) for _ in range(1 + self.repeats)]  # type: ignore[arg-type]
        return median(times[1:])

    def host_ms(self, begin: Callable[[], Any], end: Callable[[Any], object] = lambda begun: None) -> float:
        """Median time until `begin` has queued what it does. end: gets what it gave, untimed."""
        times, wait = [], waiter(self.device)
        for _ in range(3 + self.repeats):
            began = time.perf_counter()
            begun = begin()
            times.append((time.perf_counter() - began) * 1e3)
            end(begun)
            wait()
        return median(times[3:])

    def device_ms(self, begin: Callable[[], Any], end: Callable[[Any], object] = lambda begun: None) -> float:
        """Median time that the device takes for what `begin` queues: it is kept waiting until all is queued,
        by cycles of which a millisecond has 2e6 at most.

        end: gets what `begin` gave, once the time is taken. Without a GPU the time is the wall's.
        """
        if self.device.type != "cuda":
            return self.wall_ms(lambda: end(begin()))
        end(begin())  # which may compile, for seconds
        times, queued_ms = [], 1.0
        for _ in range(2 + self.repeats):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda._sleep(int(2e6 * (0.2 + 1.5 * min(queued_ms, 20.0))))  # type: ignore[no-untyped-call]
            first.record()
            began = time.perf_counter()
            begun = begin()
            queued_ms = (time.perf_counter() - began) * 1e3
            last.record()
            torch.cuda.synchronize()
            times.append(float(first.elapsed_time(last)))
            end(begun)
        return median(times[2:])

    def ceilings(self) -> dict[str, float]:
        """See Ceilings. The matrices are many times what the device's caches hold."""
        many = torch.randn(16, self.product, self.product, device=self.device, dtype=self.dtype)
        copy, result = torch.empty_like(many), torch.empty_like(many[0])
        copied_ms = self.device_ms(lambda: copy.copy_(many))
        read_ms = self.device_ms(lambda: torch.amax(many.view(torch.float32), dim=(1, 2)))
        multiplied_ms = self.device_ms(lambda: torch.mm(many[0], many[1], out=result))
        return {
            "copied": 2e3 * many.nbytes / copied_ms,
            "read": 1e3 * many.nbytes / read_ms,
            "multiplied": 2e3 * self.product**3 / multiplied_ms,
        }


def held(tokens: int) -> int:
    """Blocks that a sequence of so many tokens takes."""
    return -(-tokens // BLOCK_TOKENS)


def random_tokens(config: MatFormerConfig, *shape: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(config.vocab_size, shape, generator=generator).tolist()


def piece(row: int, tokens: Sequence[int], start: int, each: int, submodel: Submodel) -> Segment:
    """Of the sequence in row `row`, whose blocks are `each` a row."""
    blocks = range(row * each, row * each + held(start + len(tokens)))
    return Segment(tokens=tokens, start=start, blocks=blocks, submodel=submodel, wants_logits=True)


def mixture(config: MatFormerConfig, rows: int) -> list[Submodel]:
    """All granularities in turn, the widest first."""
    widths = list(config.trained.values())[::-1]
    return [widths[row % len(widths)] for row in range(rows)]
