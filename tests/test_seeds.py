from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.nested_training import nested_training
from benchmarks.speculation import speculation
from benchmarks.training_step import training_step
from lts_ray.cli.generate import generate
from lts_ray.seeds import seeded_generator

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("verb", "needed"),
    [
        (generate, ["--prompt", "a"]),
        (speculation, []),
        (training_step, []),
        (nested_training, ["--output", "nowhere"]),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
@pytest.mark.parametrize("seed", [-1, LARGEST + 1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused_by_every_verb(
    verb: Callable[..., None], needed: list[str], seed: int
) -> None:
    app = typer.Typer()
    app.command()(verb)
    found = CliRunner().invoke(app, [*needed, "--seed", str(seed)])
    assert found.exit_code == 2
    assert "--seed" in found.output


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 63))
def test_all_64_bits_of_a_seed_count(seed: int, bit: int) -> None:
    draws = [torch.rand(2, generator=seeded_generator(each)).tolist() for each in (seed, seed, seed ^ 1 << bit)]
    assert draws[0] == draws[1] != draws[2]


@given(st.integers(0, 2**32 - 1))
def test_a_small_seed_gives_what_torch_gives(seed: int) -> None:
    expected = torch.rand(700, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.equal(torch.rand(700, generator=seeded_generator(seed), dtype=torch.float64), expected)


def test_the_draws_of_a_large_seed_are_those_of_its_twister() -> None:
    """Oracle: numpy's, whose words torch's float64 draws are made of. 700 draws pass the end of the state twice."""
    twister = np.random.MT19937(2**40 + 3)
    twister.random_raw()  # the last word of its first state, with which numpy begins
    high, low = twister.random_raw(1400).astype(np.uint64).reshape(-1, 2).T
    expected = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
    found = torch.rand(700, generator=seeded_generator(2**40 + 3), dtype=torch.float64)
    assert found.tolist() == expected.tolist()


def test_the_largest_seed_is_one_that_torch_takes_with_as_many_again_after_it() -> None:
    torch.Generator().manual_seed(2 * LARGEST)
