"""What the simulator takes from a fleet file: step costs, starts, menus and faults; and one line for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lts_ray.checkpoints.universal import read_universal, universal_fingerprint
from lts_ray.errors import LtsRayError
from lts_ray.runtime.node_calibration import NodeCalibration, read_calibration
from serve.engine.kv_memory import SPARE_BYTES, SPARE_SHARE, block_bytes, blocks_of_context, step_bytes
from serve.policies.fixed import FixedPolicy
from serve.simulate.fleet_kinds import read_faults, read_kinds
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.simulate import simulate
from serve.simulate.simulation_settings import SimulationSettings
from tests.conftest import ROOT
from tests.serve.simulate.test_simulate import FLAT, NODE, arrival


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    one = NodeCalibration(
        model=universal_fingerprint(model_dir),
        costs=FLAT,
        ratios=(1.5,),
        prompt_ratios=(1.2,),
        process_s=5.0,
        load_s=2.0,
        calibration_s=4.0,
    )
    one.write(tmp_path / "one.json")
    replace(one, costs=FLAT.scaled(3.0)).write(tmp_path / "two.json")
    replace(one, model="another").write(tmp_path / "other.json")
    return tmp_path


def settings(folder: Path, model: Path, text: str, **more: object) -> SimulationSettings:
    (folder / "fleet.yaml").write_text(text)
    return SimulationSettings(fleet=str(folder / "fleet.yaml"), model=str(model), **more)  # type: ignore[arg-type]


def test_kinds_have_what_the_files_say_and_what_is_said_beside_them(folder: Path, model_dir: Path) -> None:
    text = """
    kinds:
      - {name: plain, cost_per_hour: 3, max_replicas: 4, simulated: {step_costs: one.json}}
      - {name: said, min_replicas: 0, simulated: {step_costs: one.json, slower: 2, noise: 0.1, drift: 0.2, hand_over_ms: 3, delivery_ms: 1, node_s: 60, load_s: 0}}
      - {name: given}
    """  # noqa: E501
    files = {"given": str(folder / "two.json"), "said": str(folder / "two.json")}
    plain, said, given = read_kinds(settings(folder, model_dir, text, costs=files, attainment=0.9, quality_floor="5.5"))
    assert (plain.name, plain.cost_per_hour, plain.replicas, plain.min_replicas, plain.max_replicas) == (
        "plain", 3.0, 1, 1, 4,
    )  # fmt: skip
    assert (plain.node.costs, plain.start_s) == (FLAT, 11.0)
    assert (plain.node.recorded, plain.node.recorded_prompts) == ((1.5,), (1.2,))
    assert (said.node.costs, said.node.noise, said.node.drift) == (FLAT.scaled(6.0), 0.1, 0.2)
    assert (said.node.hand_over_ms, said.node.delivery_ms) == (3.0, 1.0)
    assert (said.replicas, said.max_replicas, said.start_s) == (0, 1, 69.0)
    assert given.node.costs == FLAT.scaled(3.0)
    assert (plain.node.attainment, plain.node.worst_loss) == (0.9, 5.5)
    assert [option.name for option in plain.node.menu.elastic] == ["XL", "L", "M", "S"]


def test_a_kind_on_a_gpu_has_what_a_replica_there_would_have(folder: Path, model_dir: Path) -> None:
    """As many requests at once, and as large a cache: what its part of the card has room for."""
    text = """
    kinds:
      - {name: plain, simulated: {step_costs: one.json}}
      - {name: unknown, simulated: {step_costs: old.json}}
      - {name: whole, simulated: {step_costs: card.json}}
      - {name: part, num_gpus: 0.5, simulated: {step_costs: card.json}}
    """
    config, _ = read_universal(model_dir)
    one, size = blocks_of_context(config), block_bytes(config, itemsize=2)
    model = 2 * config.parameters(config.universal) + step_bytes(config, itemsize=2)
    memory = int(2 * (model + SPARE_BYTES + 2.5 * one * size) / (1 - SPARE_SHARE))
    measured = replace(read_calibration(folder / "one.json"), device="cuda")
    measured.write(folder / "old.json")
    replace(measured, memory_bytes=memory, dtype="bfloat16").write(folder / "card.json")
    plain, unknown, whole, part = [kind.node for kind in read_kinds(settings(folder, model_dir, text))]
    assert [each.capacity.slots for each in (plain, unknown, whole, part)] == [8, 64, 64, 64]
    assert (plain.n_blocks, unknown.n_blocks, whole.n_blocks) == (8 * one, 64 * one, 64 * one)
    assert part.n_blocks in (int(2.5 * one), int(2.5 * one) - 1)
    replace(measured, memory_bytes=int(0.6 * memory), dtype="bfloat16").write(folder / "card.json")
    with pytest.raises(LtsRayError, match=r"^kind 'part': the model and .* 0\.5 of the GPU is its own"):
        read_kinds(settings(folder, model_dir, text))


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("{name: a}", {}, "kind 'a' needs a file of step costs, simulated.step_costs: `lts-ray measure --step-costs "),
        ("{name: a, simulated: {step_costs: none.json}}", {}, "none.json does not exist"),
        ("{name: a, simulated: {step_costs: other.json}}", {}, "other.json are of another model than "),
        ("{name: a, simulated: {step_costs: fleet.yaml}}", {}, "fleet.yaml cannot be read as JSON"),
        ("{name: a, simulated: {step_costs: one.json}}", {"frontier": "none.json"}, "none.json does not exist"),
        ("{name: a, simulated: {step_costs: one.json}}", {"costs": {"b": "one.json"}}, "step costs of kind 'b', of"),
    ],
)
def test_a_kind_that_cannot_be_simulated_is_one_line(
    kind: str, more: dict[str, object], message: str, folder: Path, model_dir: Path
) -> None:
    with pytest.raises(LtsRayError) as refused:
        read_kinds(settings(folder, model_dir, f"kinds: [{kind}]", **more))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


KINDS = "kinds: [{name: a, simulated: {step_costs: one.json}}]"


def test_faults_come_in_the_order_of_their_times(folder: Path, model_dir: Path) -> None:
    text = f"{KINDS}\nfaults: [{{at_s: 9, kind: a, what: slow, factor: 3, for_s: 2}}, {{at_s: 1, kind: a, replica: 0}}]"
    asked = settings(folder, model_dir, text)
    assert read_faults(Path(asked.fleet), read_kinds(asked)) == (
        InjectedFault(at_s=1, kind="a", replica=0, what="kill"),
        InjectedFault(at_s=9, kind="a", what="slow", factor=3, for_s=2),
    )


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ("kill", "faults must be a list; got 'kill'"),
        ("{at_s: 1}", "faults must be a list"),
        ("[1]", "fault 0 must be a mapping; got 1"),
        ("[{at_s: 1}]", "fault 0 needs kind"),
        ("[{at_s: 1, kind: a}, {at_s: 1, kind: b}]", "fault 1: unknown kind 'b'; known: a"),
        ("[{at_s: -1, kind: a}]", "fault 0.at_s must be at least 0; got -1"),
        ("[{at_s: .nan, kind: a}]", "fault 0.at_s must be "),
        ("[{at_s: 1, kind: a, what: burn}]", "fault 0.what must be one of kill, slow; got 'burn'"),
        ("[{at_s: 1, kind: a, factor: 0}]", "fault 0.factor must be above 0; got 0"),
        ("[{at_s: 1, kind: a, replica: -1}]", "fault 0.replica must be at least 0; got -1"),
        ("[{at_s: 1, kind: a, when: 2}]", "fault 0 has unknown keys when; known: at_s, factor, for_s, kind, "),
    ],
)
def test_a_wrong_fault_is_one_line(faults: str, message: str, folder: Path, model_dir: Path) -> None:
    asked = settings(folder, model_dir, f"{KINDS}\nfaults: {faults}")
    with pytest.raises(LtsRayError) as refused:
        read_faults(Path(asked.fleet), read_kinds(asked))
    assert f"fleet file {asked.fleet}: {message}" in str(refused.value)


def test_what_drifts_is_slow_or_fast_for_long() -> None:
    """The times of many equal requests, one after the other: alike from one to the next."""
    arrivals = [arrival(400.0 * number, output=10) for number in range(1000)]
    found = simulate(arrivals, node=replace(NODE, drift=0.2), policy=FixedPolicy(), rng=np.random.default_rng(0))
    logs = np.log([outcome.timing.e2e_ms / 202.0 for outcome in found if outcome.timing is not None])
    assert np.ptp(logs) > 0.4
    assert np.std(logs) == pytest.approx(0.2, abs=0.1)
    assert np.std(np.diff(logs)) < 0.03


def test_the_example_is_simulated() -> None:
    asked = SimulationSettings(
        fleet=str(ROOT / "configs" / "simulated-fleet.yaml"), model=str(ROOT / "lts_ray" / "pretrained" / "sotu")
    )
    large, small = read_kinds(asked)
    assert small.node.costs == large.node.costs.scaled(2.0)
    assert [fault.kind for fault in read_faults(Path(asked.fleet), (large, small))] == ["small", "large"]
