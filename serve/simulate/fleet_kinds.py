"""What a fleet file says, for the simulator: kinds of node with their measured steps and starts, and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lts_ray.checkpoints.universal import read_universal, universal_fingerprint, vouched
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.frontier import read_frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.record import read_record
from lts_ray.runtime.node_calibration import NodeCalibration, read_calibration
from serve.engine.kv_memory import blocks_of_context, blocks_on_gpu, blocks_that_fit
from serve.fleet.node_kind import NodeKind, load_kinds
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu, menu_of_frontier, menu_of_granularities
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.simulate import SimulatedReplica
from serve.simulate.simulated_kind import SimulatedKind
from serve.simulate.simulation_settings import SimulationSettings

MEASURE = "`lts-ray measure --step-costs FILE` on such a node makes one"


def read_kinds(settings: SimulationSettings) -> tuple[SimulatedKind, ...]:
    """Raises LtsRayError for files that are wrong or do not fit."""
    config, losses = read_universal(Path(settings.model))
    kinds = load_kinds(Path(settings.fleet))
    if unknown := sorted(settings.costs.keys() - {kind.name for kind in kinds}):
        raise LtsRayError(f"step costs of kind {unknown[0]!r}, of which {settings.fleet} knows nothing")
    known, fingerprint = vouched(config, losses), universal_fingerprint(Path(settings.model))
    frontier = None if settings.frontier is None else read_frontier(Path(settings.frontier))
    if frontier is not None:
        frontier.check_model(fingerprint, config.check)

    def menu(kind: NodeKind, precisions: Sequence[str]) -> Menu:
        if frontier is None:
            return menu_of_granularities(config, losses, vouched=known, precisions=precisions)
        if kind.target_name not in frontier.targets:
            has = ", ".join(frontier.targets) or "none"
            raise LtsRayError(f"kind {kind.name!r}: the frontier has no target {kind.target_name!r}; it has: {has}")
        return menu_of_frontier(config, frontier, kind.target_name, vouched=known, precisions=precisions)

    def simulated(kind: NodeKind) -> SimulatedKind:
        said = kind.simulated
        if kind.name in settings.costs:
            path = Path(settings.costs[kind.name])
        elif said.step_costs is not None:
            path = Path(settings.fleet).parent / said.step_costs
        else:
            raise LtsRayError(f"kind {kind.name!r} needs a file of step costs, simulated.step_costs: {MEASURE}")
        measured = read_calibration(path)
        if measured.model != fingerprint:
            raise LtsRayError(f"step costs {path} are of another model than {settings.model}: {MEASURE}")
        starts = (
            (said.process_s, measured.process_s),
            (said.load_s, measured.load_s),
            (said.calibration_s, measured.calibration_s),
        )
        capacity = Capacity.on("cpu" if measured.device == "cpu" else "cuda")
        its_menu, floor = menu(kind, measured.precisions).priced(measured.costs), settings.quality_floor
        return SimulatedKind(
            name=kind.name,
            cost_per_hour=kind.cost_per_hour,
            node=SimulatedReplica(
                menu=its_menu,
                costs=measured.costs.scaled(said.slower),
                noise=said.noise,
                drift=said.drift,
                hand_over_ms=said.hand_over_ms,
                delivery_ms=said.delivery_ms,
                recorded=measured.ratios,
                recorded_prompts=measured.prompt_ratios,
                attainment=settings.attainment,
                capacity=capacity,
                n_blocks=_blocks(kind, config, capacity.slots, measured),
                worst_loss=None if floor is None else its_menu.floor(floor),
            ),
            replicas=kind.min_replicas,
            min_replicas=kind.min_replicas,
            max_replicas=kind.most,
            start_s=said.node_s + sum(took if given is None else given for given, took in starts),
        )

    return tuple(map(simulated, kinds))


def _blocks(kind: NodeKind, config: DecoderConfig, slots: int, measured: NodeCalibration) -> int:
    """Of a replica's cache. Raises LtsRayError where the model does not fit on its part of a GPU."""
    if measured.device == "cpu":
        return blocks_that_fit(config, rows=slots, budget_mb=None)
    if not measured.memory_bytes:
        return slots * blocks_of_context(config)
    memory, itemsize = (measured.memory_bytes,) * 2, 4 if measured.dtype == "float32" else 2
    share = kind.num_gpus or 1.0
    try:
        return blocks_on_gpu(config, rows=slots, budget_mb=None, itemsize=itemsize, memory=memory, share=share)
    except LtsRayError as error:
        raise LtsRayError(f"kind {kind.name!r}: {error}") from None


def read_faults(path: Path, kinds: Sequence[SimulatedKind]) -> tuple[InjectedFault, ...]:
    """Of a fleet file, which has been read for its kinds; in the order of their times. Raises LtsRayError."""
    raw = read_yaml(path, what="fleet file")
    given = raw.get("faults", ()) if isinstance(raw, Mapping) else ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise LtsRayError(f"fleet file {path}: faults must be a list; got {given!r}")
    faults = [read_record(InjectedFault, each, what=f"fleet file {path}: fault {n}") for n, each in enumerate(given)]
    for n, fault in enumerate(faults):
        if fault.kind not in (known := [kind.name for kind in kinds]):
            raise LtsRayError(f"fleet file {path}: fault {n}: unknown kind {fault.kind!r}; known: {', '.join(known)}")
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def batch_ms(kind: SimulatedKind) -> float:
    """A step of a full batch, by the universal model."""
    slots, node = kind.node.capacity.slots, kind.node
    return node.costs.step_ms([node.menu.universal.group(slots, 0, slots)])
