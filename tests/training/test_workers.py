"""Two workers take the step of one on the whole batch, and talk once to do so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from lts_ray.device import CPU
from lts_ray.training.loop import make_optimizer, optimize
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings
from tests.forked import forked

CASES: dict[str, dict[str, str]] = {
    "mixed": {},
    "separate": {"passes": "separate"},
    "sampled": {"objective": "sampled"},
    "ffn": {"train": "ffn"},
}
STEPS = 2


def steps_of(case: str, rank: int, workers: int) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The parameters and losses of a few steps on this worker's share of four sequences."""
    settings = RunSettings(
        model=ModelSettings(vocab_size=50, d_model=16, n_head=2, n_kv_head=1, n_layer=2, d_ff=32, context_length=16),
        training=TrainingSettings(sequence_length=8, learning_rate=1e-3, warmup_steps=1, **CASES[case]),  # type: ignore[arg-type]
    )
    learner = new_learner(settings, vocab_size=50, device=CPU)
    optimizer = make_optimizer(learner.model, settings.training)
    losses = []
    for step in range(STEPS):
        blocks = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(step))
        mine = torch.chunk(blocks, workers)[rank]
        found = optimize(learner, optimizer, mine, step, settings.training, "float32")
        losses.append({name: float(loss) for name, loss in found.items()})
    return {name: each.detach() for name, each in learner.model.named_parameters()}, losses


def work(rank: int, folder: str) -> None:
    """Writes every case's parameters and losses, and how often the workers talked."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    talks, talk = [0], distributed.all_reduce

    def counted(*args: Any, **kwargs: Any) -> object:
        talks[0] += 1
        return talk(*args, **kwargs)

    distributed.all_reduce = counted
    results = {}
    for case in CASES:
        talks[0] = 0
        parameters, losses = steps_of(case, rank, 2)
        results[case] = {"parameters": parameters, "losses": losses, "talks": talks[0]}
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, object]]]:
    folder: Path = tmp_path_factory.mktemp("workers")
    workers = [forked(work, rank, str(folder)) for rank in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_take_the_steps_of_one_and_talk_once_a_step(
    case: str, two_workers: list[dict[str, dict[str, object]]]
) -> None:
    parameters, losses = steps_of(case, 0, 1)
    for worker in two_workers:
        assert worker[case]["talks"] == STEPS
        for found, wanted in zip(worker[case]["losses"], losses, strict=True):  # type: ignore[call-overload]
            assert found == pytest.approx(wanted, abs=1e-5)
        # AdamW's first steps have the size of the learning rate whatever the gradient's: rounding may turn a sign.
        torch.testing.assert_close(worker[case]["parameters"], parameters, atol=1e-4, rtol=0)
    torch.testing.assert_close(two_workers[0][case]["parameters"], two_workers[1][case]["parameters"], atol=0, rtol=0)
