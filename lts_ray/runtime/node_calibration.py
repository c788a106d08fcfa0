"""What `lts-ray measure --step-costs` leaves of a node: what its steps cost, how they strayed, what a start takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.precision import PRECISIONS
from lts_ray.record import Positive, Text, Whole, read_record, record, record_json
from lts_ray.runtime.step_costs import StepCosts

SCHEMA = 1
WHAT = "step costs"
Seconds = Annotated[float, Field(ge=0)]


@record(what=WHAT)
class NodeCalibration:
    model: Text
    """Its fingerprint."""
    costs: StepCosts
    """Of a step, what serving adds to it included."""
    ratios: tuple[Positive, ...] = ()
    """What steps of the engine took over what they cost, one after the other: of those that read no prompt."""
    prompt_ratios: tuple[Positive, ...] = ()
    """The same of those that do: they are longer, and a stall is less to them."""
    process_s: Seconds = 0.0
    """What a replica's process took to start and to import what it needs."""
    load_s: Seconds = 0.0
    """What the model took to load."""
    calibration_s: Seconds = 0.0
    """What a replica takes to measure its steps and to rehearse."""
    threads: Whole = 1
    """Of a step."""
    device: Text = "cpu"
    """What ran the steps."""
    machine: Text = "unknown"
    """Its processor, and how many cores there were; or its GPU."""
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """All of its GPU's; 0: none is known."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    precisions: tuple[Text, ...] = PRECISIONS[:1]
    """That were measured, the most precise first."""

    def write(self, path: Path) -> None:
        write_json(path, {"schema": SCHEMA, **record_json(self)})


def read_calibration(path: Path) -> NodeCalibration:
    """Raises LtsRayError for a file of another kind."""
    value: dict[str, Any] = read_json(path, what=WHAT)
    if (schema := value.pop("schema", None)) != SCHEMA:
        raise LtsRayError(
            f"{WHAT} {path} have schema {schema!r}, not {SCHEMA}: `lts-ray measure --step-costs FILE` writes them"
        )
    return read_record(NodeCalibration, value, what=f"{WHAT} {path}")
