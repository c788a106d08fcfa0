"""Steps compile as they are launched on a card, find room there and wait in time: the interpreter cannot tell."""

from __future__ import annotations

import pytest

from tests.runtime.cuda.compiled_steps import compiled_steps, touched

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


STREAMED = KERNELS - {"embed_rows", "normalise"}
WRITTEN = {
    *("a", "x", "half", "stats", "out", "q", "keys", "values", "partial", "marks", "arrived", "attended", "inner"),
    *("logits", "tops", "top_ids", "spare", "chosen"),
}
"""What the kernels of a step write; of weights and of what a step is told they only read."""


@pytest.mark.parametrize(
    ("capability", "dtype", "heads"),
    [(90, "bfloat16", (9, 3, 64)), (80, "float16", (8, 2, 128)), (90, "float32", (9, 3, 64))],
    ids=["H100", "A100", "float32"],
)
def test_all_kernels_of_steps_compile_and_fit(capability: int, dtype: str, heads: tuple[int, int, int]) -> None:
    kernels = compiled_steps(capability, dtype, *heads)
    assert {kernel["name"] for kernel in kernels} == KERNELS
    assert [kernel["name"] for kernel in kernels if kernel["spilled"]] == []
    # 16 bytes a copy: less where alignment is not seen.
    assert {kernel["name"] for kernel in kernels if "cp.async.cg" not in kernel["ptx"]} == KERNELS - STREAMED
    assert any("atom.global.gpu.acq_rel" in kernel["ptx"] for kernel in kernels if kernel["name"] == "paged_attention")
    waits = [kernel for kernel in kernels if "griddepcontrol.wait" in kernel["ptx"]]
    if capability < 90:
        assert waits == []
        return
    # The first one waits for all that came before, as a launch does that is not early.
    assert {kernel["name"] for kernel in kernels if kernel not in waits} == {"embed_rows"}
    for kernel in waits:
        before, after = kernel["ptx"].split("griddepcontrol.wait")
        assert touched(before, kernel["parameters"]) & WRITTEN == set(), kernel["name"]
        assert "griddepcontrol.launch_dependents" in after
