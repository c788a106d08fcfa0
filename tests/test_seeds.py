from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.nested_training import nested_training
from benchmarks.speculation import speculation
from benchmarks.training_step import training_step
from lts_ray.cli.generate import generate

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


def test_the_largest_seed_is_one_that_torch_takes_with_as_many_again_after_it() -> None:
    torch.Generator().manual_seed(2 * LARGEST)
