from __future__ import annotations

import pytest
import torch

from lts_ray.device import device_here, dtype_here
from lts_ray.errors import LtsRayError


@pytest.mark.parametrize(
    ("asked", "there", "given"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_is_a_gpu_where_there_is_one(asked: str, there: bool, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device_here(asked) == given


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LtsRayError, match=r"^--device is cuda, but torch finds no CUDA GPU on this machine"):
        device_here("cuda", what="--device")


def test_weights_are_in_what_the_device_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for multiplies, dtype in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, has=multiplies: has)
        assert dtype_here("cuda") == dtype
    assert dtype_here("cpu") == "float32"
