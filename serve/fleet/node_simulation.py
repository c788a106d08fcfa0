"""How a kind of node is simulated, as `fleet.yaml` says under `simulated`. Serving does not look at it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lts_ray.record import Positive, Text, record

Duration = Annotated[float, Field(ge=0)]


@record(what="simulated")
class NodeSimulation:
    step_costs: Text | None = None
    """File of `lts-ray measure --step-costs`, beside the fleet file; None: it is named on the command line."""
    slower: Positive = 1.0
    """By which factor steps take longer than the file says; below 1 they are faster."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Of a step's time, beside what was recorded: the standard deviation of its logarithm."""
    drift: Annotated[float, Field(ge=0)] = 0.0
    """The same of a factor of all steps that wanders over some thousand of them."""
    hand_over_ms: Duration = 0.0
    """From when a request comes until a replica's engine knows of it, in milliseconds."""
    delivery_ms: Duration = 0.0
    """From a step's end until its tokens are with the client, in milliseconds."""
    node_s: Duration = 0.0
    """From asking for a replica until there is a node for it; 0: there is one."""
    process_s: Duration | None = None
    """What its process takes to start; None: as the file says, like the following."""
    load_s: Duration | None = None
    """What the model takes to load."""
    calibration_s: Duration | None = None
    """What it takes until steps are measured."""
