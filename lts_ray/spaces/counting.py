"""Parameters of an architecture that somebody wrote down as a row of JSON."""

from __future__ import annotations

import json
from typing import Any

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.spaces.backbone_space import BackboneSpace


def counted(line: str, space: BackboneSpace, *, where: str) -> dict[str, Any]:
    """The row with `encoder_params` and `decoder_params`, of the stacks that the space's backbone has, and with
    `total_params` where it names its vocabulary's size as n_token.

    The architecture need not be on the space's grid. Raises LtsRayError for what is not one; `where` says which row.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise LtsRayError(f"a row is a JSON object; got {line.strip()[:60]}")
        architecture = Architecture.from_json(row)
        counts = dict(space.stack_params(architecture))
        if "n_token" in row and "total_params" not in row:
            counts["total_params"] = space.count_total_params(architecture, vocab_size=_whole(row["n_token"]))
    except json.JSONDecodeError as error:
        raise LtsRayError(f"{where}: not JSON: {error}") from None
    except LtsRayError as error:
        raise LtsRayError(f"{where}: {error}") from None
    return {**row, **counts}


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LtsRayError(f"n_token must be a positive whole number; got {value!r}")
    return value
