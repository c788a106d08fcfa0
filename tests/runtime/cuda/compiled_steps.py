"""Compiles all kernels of some steps for a card that need not be here, just as they are launched on one.

In a process of its own, without Triton's interpreter, which is asked for or not before triton is imported. A driver
that stands in for a card's launches nothing: `python -m tests.runtime.cuda.compiled_steps 90 bfloat16 9 3 64`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[3]  # not from conftest, which asks for the interpreter
MOST_SHARED = {80: 166_912, 90: 232_448}
"""Bytes of a program, by compute capability."""


def compiled_steps(capability: int, dtype: str, n_head: int, n_kv_head: int, d_head: int) -> list[dict[str, Any]]:
    """Of each kernel: its name, its PTX (ptx), the names of what its parameters are (parameters), and the bytes of a
    thread that found no place in registers (spilled).

    Triton refuses what does not find room in shared memory.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    shape = [str(each) for each in (capability, dtype, n_head, n_kv_head, d_head)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, *shape],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    kernels: list[dict[str, Any]] = json.loads(done.stdout)
    return kernels


class StandInDriver:
    """Of a card of this compute capability. It is its own utilities, too."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.utils = self
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": MOST_SHARED[self._target.arch]}

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 0, 0, 1024

    def unload_module(self, _: int) -> None: ...

    @staticmethod
    def launcher_cls(*_: Any) -> Any:
        return lambda *arguments, **options: None


def main(capability: int, dtype: str, n_head: int, n_kv_head: int, d_head: int) -> None:
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from lts_ray.models.matformer.matformer import MatFormer
    from lts_ray.models.matformer.matformer_config import MatFormerConfig
    from lts_ray.runtime.cuda import launch
    from lts_ray.runtime.cuda_runtime import CudaRuntime
    from lts_ray.runtime.segment import Segment

    stand_in: Any = StandInDriver(capability)
    driver.set_active(stand_in)
    config = MatFormerConfig(
        vocab_size=4096,
        d_model=n_head * d_head,
        n_head=n_head,
        n_kv_head=n_kv_head,
        widths=(4 * n_head * d_head,),
        context_length=512,
    )
    model = MatFormer(config).to(getattr(torch, dtype))
    runtime = CudaRuntime(model, n_blocks=32, early=capability >= 90)

    def segment(tokens: int) -> Segment:
        blocks = list(range(-(-tokens // 16)))
        return Segment(tokens=[1] * tokens, start=0, blocks=blocks, submodel=config.universal, wants_logits=True)

    steps = [[segment(1)] * 32, [segment(1), segment(300)], [segment(1)]]
    for segments in steps[: 3 if capability >= 90 else 2]:  # to compile takes most of a second a kernel
        runtime.run(segments)
    kernels = [each for each in vars(launch).values() if isinstance(each, JITFunction)]
    compiled = [(kernel, each) for kernel in kernels for each in kernel.device_caches[0][0].values()]
    print(json.dumps([told(kernel.fn.__name__, each) for kernel, each in compiled]))


def told(name: str, compiled: Any) -> dict[str, Any]:
    parameters = [name for name, kind in compiled.src.signature.items() if kind != "constexpr"]
    return {
        "name": name,
        "ptx": compiled.asm["ptx"],
        "parameters": parameters,
        "spilled": spilled(compiled.asm["cubin"]),
    }


def touched(ptx: str, parameters: list[str]) -> set[str]:
    """The pointers, by name, through which a run of PTX without loops may read or write."""
    origins: dict[str, set[str]] = {}
    found = set[str]()
    for line in ptx.splitlines():
        registers = re.findall(r"%[a-z]+\d+", line)
        if parameter := re.search(r"ld\.param\.b64\s.*_param_(\d+)\]", line):
            number = int(parameter[1])
            origins[registers[0]] = {parameters[number]} if number < len(parameters) else set()
            continue
        through = set[str]().union(*(origins.get(each, set()) for each in registers))
        if re.search(r"\b(ld|st|red|atom|cp\.async)\.(\w+\.)*global", line):
            found |= through
        elif registers:
            origins[registers[0]] = through  # what is loaded is a number, or a pointer to nothing that is written
    return found


def spilled(binary: bytes) -> int:
    """Bytes of each thread."""
    from triton.backends.nvidia import __file__ as backend

    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(binary)
        cubin.flush()
        tool = [Path(backend).parent / "bin" / "cuobjdump", "--dump-resource-usage", cubin.name]
        usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    return sum(int(count) for count in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
