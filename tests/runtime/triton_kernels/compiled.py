"""Compiles kernels for cards that need not be here, and reads what each of them takes of a multiprocessor.

In a process of its own, without Triton's interpreter, which has to be asked for or not before triton is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]  # not from conftest, which asks for the interpreter


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """What to compile."""

    kernel: str
    """Its file in `lts_ray/runtime/triton_kernels` and its name: "paged_attention.paged_attention"."""
    types: dict[str, str]
    """Of each argument that is not a constant: "*bf16", "*i32", "i32", "fp32". Pointers are aligned to 16 bytes."""
    constants: dict[str, Any]
    """And the compiler's options: num_warps, num_stages."""
    capability: int = 90


@dataclass(frozen=True, kw_only=True)
class Compiled:
    registers: int
    """Of each thread."""
    spilled: int
    """Bytes of each thread that found no place in registers."""
    shared: int
    """Bytes of shared memory of a program."""
    ptx: str


def compiled(compilations: Sequence[Compilation]) -> list[Compiled]:
    """All of them in one process: starting it takes longer than most compilations."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([asdict(compilation) for compilation in compilations]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "TRITON_DEFAULT_FP_FUSION": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [Compiled(**one) for one in json.loads(done.stdout)]


def compile_one(compilation: Compilation) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import __file__ as backend
    from triton.compiler import ASTSource

    module, _, name = compilation.kernel.partition(".")
    kernel = getattr(import_module(f"lts_ray.runtime.triton_kernels.{module}"), name)
    types = {argument: compilation.types.get(argument, "constexpr") for argument in kernel.arg_names}
    constants = {name: value for name, value in compilation.constants.items() if name in types}
    aligned = [number for number, kind in enumerate(types.values()) if kind.startswith("*")]
    source = ASTSource(kernel, types, constants, {(number,): [["tt.divisibility", 16]] for number in aligned})
    options = {name: value for name, value in compilation.constants.items() if name not in types}
    made = triton.compile(source, target=GPUTarget("cuda", compilation.capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        tool = [Path(backend).parent / "bin" / "cuobjdump", "--dump-resource-usage", cubin.name]
        usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    taken = {name: int(count) for name, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Compiled(
        registers=taken["REG"],
        spilled=taken["STACK"] + taken["LOCAL"],
        shared=made.metadata.shared,
        ptx=made.asm["ptx"],
    )


if __name__ == "__main__":
    print(json.dumps([asdict(compile_one(Compilation(**one))) for one in json.load(sys.stdin)]))
