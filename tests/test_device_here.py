from __future__ import annotations

import pytest
import torch

from lts_ray.device import device_here, dtype_here, lost_gpu, within_gpu_memory
from lts_ray.errors import LtsRayError
from lts_ray.target import read_target


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
    assert (dtype_here("cpu"), dtype_here("cuda")) == ("float32", "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert dtype_here("cuda") == "float16"


def test_what_the_gpu_has_no_room_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(1.5e9), int(8e9)))
    said = r"^the model does not fit on the GPU, where 1\.5 of 8\.0 GB are free: sell it$"
    allocating = torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
    others = (
        "CUDA error: out of memory",
        "Triton Error [CUDA]: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
    )
    for error in (allocating, *map(RuntimeError, others)):
        with pytest.raises(LtsRayError, match=said), within_gpu_memory("the model", advice="sell it"):
            raise error
    for words in ("another", "CUDA error: misaligned address", "a queue out of memory"):
        with pytest.raises(RuntimeError, match=words), within_gpu_memory("the model", advice=""):
            raise RuntimeError(words)


def test_a_gpu_is_lost_when_it_can_not_be_waited_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        if device.index:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert lost_gpu(torch.device("cuda", 1)) == "CUDA error: an illegal memory access was encountered"
    assert lost_gpu(torch.device("cuda", 0)) is None
    assert lost_gpu(torch.device("cpu")) is None


def test_a_target_that_takes_what_this_machine_has_is_a_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"name": "t", "local": True, "device": "auto"}
    for there, device, dtype in ((False, "cpu", "float32"), (True, "cuda", "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        target = read_target(given)
        assert (target.device, target.dtype) == (device, dtype)
        assert read_target(given | {"dtype": "float16"}).dtype == "float16"
    elsewhere = {"name": "t", "label_selector": {"role": "x"}, "device": "auto"}
    with pytest.raises(LtsRayError, match=r"^target 't': device auto is for `local: true`; of other nodes say whether"):
        read_target(elsewhere)
