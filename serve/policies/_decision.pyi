"""decision.c, which says what each does."""

from collections.abc import Sequence, Set

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.capacity import Capacity
from serve.policies.deadline import Thresholds
from serve.policies.deviation import Deviation
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job

VERSION: int

def forecast(
    running: tuple[Job, ...],
    waiting: tuple[Job, ...],
    now_ms: float,
    capacity: Capacity,
    widths: dict[int, int],
    caps: Sequence[int],
    costs: StepCosts,
    held: Set[int],
    every: int,
    wait: int,
    /,
) -> tuple[bytes, bytes]: ...
def odds(
    jobs: tuple[Job, ...], now_ms: float, first: bytes, last: bytes, deviation: Deviation, hopeless: float, /
) -> bytes: ...
def decide(
    running: tuple[Job, ...],
    waiting: tuple[Job, ...],
    now_ms: float,
    capacity: Capacity,
    menu: Menu,
    start: int,
    stop: int,
    costs: StepCosts,
    deviation: Deviation,
    thresholds: Thresholds,
    wait: int,
    /,
) -> tuple[
    frozenset[int], frozenset[int], frozenset[int], frozenset[int], int, int, int, int, int, float, bytes, bytes
]: ...
def assign(
    running: tuple[Job, ...],
    waiting: tuple[Job, ...],
    menu: Menu,
    cap: Option,
    decoding: Option,
    late: frozenset[int],
    /,
) -> dict[int, Option]: ...
