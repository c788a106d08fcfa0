"""The product for few rows is the product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lts_ray.models import few_rows
from lts_ray.models.few_rows import linear


@pytest.fixture(autouse=True, params=["AuthenticAMD", "GenuineIntel"])
def maker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the CPU, as Linux tells it."""
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor\t: 0\nvendor_id\t: {request.param}\n")
    monkeypatch.setattr(few_rows, "CPU", cpu)
    few_rows._has_own_kernels.cache_clear()
    yield request.param
    few_rows._has_own_kernels.cache_clear()


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")
def test_two_rows_are_taken_as_four_but_where_mkl_is_quick_with_two(
    maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(functional, "linear", lambda x, *_: taken.append(x) or x)
    with torch.inference_mode():
        linear(torch.ones(2, 8), torch.ones(16, 8))
    assert len(taken) == (maker == "GenuineIntel")


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (2, 2), (1, 4), (5, 1), (2, 7)], ids=str)
@pytest.mark.parametrize("out", [8, 24, 40])
@pytest.mark.parametrize("biased", [True, False])
def test_it_computes_what_linear_computes(shape: tuple[int, int], out: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(out)
    x, weight = torch.randn(*shape, 24, generator=generator), torch.randn(out, 24, generator=generator)
    bias = torch.randn(out, generator=generator) if biased else None
    with torch.inference_mode():
        found, expected = linear(x, weight, bias), functional.linear(x, weight, bias)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_slice_of_a_matrix_does_as_well() -> None:
    weight, x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 16)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight[16:40]), functional.linear(x, weight[16:40]))


def test_gradients_are_those_of_linear() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    linear(x, torch.eye(4)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 4))
