"""Steps compile as they are launched on a card, and their kernels find room there: the interpreter cannot tell."""

from __future__ import annotations

import pytest

from tests.runtime.cuda.compiled_steps import compiled_steps

KERNELS = {
    "embed_rows",
    "normalise",
    "project_qkv",
    "paged_attention",
    "add_product",
    "ffn_in",
    "head_logits",
    "choose_token",
}


@pytest.mark.parametrize(
    ("capability", "dtype", "heads"), [(90, "bfloat16", (9, 3, 64)), (80, "float16", (8, 2, 128))], ids=["H100", "A100"]
)
def test_all_kernels_of_steps_compile_and_fit(capability: int, dtype: str, heads: tuple[int, int, int]) -> None:
    kernels = compiled_steps(capability, dtype, *heads)
    assert {kernel["name"] for kernel in kernels} == KERNELS
    assert [kernel for kernel in kernels if kernel["spilled"]] == []
