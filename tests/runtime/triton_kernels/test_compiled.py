"""Kernels, compiled at the sizes they run with for an H100 and for an A100: they find room in registers and memory."""

from __future__ import annotations

from lts_ray.runtime.triton_kernels.choose_token import choice_options
from lts_ray.runtime.triton_kernels.paged_attention import rows_options, tiles_options
from tests.runtime.triton_kernels.compiled import Compilation, compiled

H100, A100 = 90, 80
MOST_SHARED = {H100: 232_448, A100: 166_912}
"""Bytes of a program."""


def attention(capability: int, weight: str, n_head: int, n_kv: int, d_head: int) -> list[Compilation]:
    names = "q keys values attended", "partial marks", "positions tables blocks heads firsts sizes arrived"
    kinds = zip((f"*{weight}", "*fp32", "*i32"), names, strict=True)
    types = {name: kind for kind, of in kinds for name in of.split()} | {"scale": "fp32"}
    shape = {"N_HEAD": n_head, "N_KV": n_kv, "D_HEAD": d_head, "EARLY": capability == H100}
    splits, tiles = rows_options(8, n_kv, d_head, 2), tiles_options(n_head // n_kv, d_head, 2)
    return [
        Compilation(
            kernel="paged_attention.paged_attention", types=types, constants=shape | options, capability=capability
        )
        for options in ((splits, tiles) if capability == A100 else (tiles,))  # an H100 has as many registers
    ]


def choice(capability: int, vocab_size: int, n_tops: int) -> Compilation:
    names = "logits tops temperature top_p min_p spare", "top_ids counts top_k chosen", "draws"
    types = {name: kind for kind, of in zip(("*fp32", "*i32", "*fp64"), names, strict=True) for name in of.split()}
    constants = {"EARLY": capability == H100, **choice_options(vocab_size, n_tops)}
    return Compilation(kernel="choose_token.choose_token", types=types, constants=constants, capability=capability)


def test_every_kernel_fits() -> None:
    compilations = attention(H100, "bf16", 9, 3, 64) + attention(A100, "fp16", 32, 8, 128)
    compilations += [choice(H100, 128_256, 1002)]
    wrong = [
        (compilation, made.registers, made.spilled, made.shared)
        for compilation, made in zip(compilations, compiled(compilations), strict=True)
        if made.spilled or made.shared > MOST_SHARED[compilation.capability]
    ]
    assert wrong == []
