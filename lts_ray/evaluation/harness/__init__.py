"""Downstream tasks: lm-evaluation-harness (`lm_eval`, the extra `tasks`) on any submodel of a checkpoint."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lts_ray.errors import LtsRayError

MODEL_NAME = "lts-ray"
"""What `--model` says to lm_eval."""
TASKS = Path(__file__).parent / "tasks"
"""The groups that ship, in lm_eval's own format."""


def check_lm_eval() -> None:
    """Raises LtsRayError where lm_eval is not installed, or not what it needs to run transformers' models."""
    if any(find_spec(name) is None for name in ("lm_eval", "accelerate")):
        raise LtsRayError("downstream tasks need lm-evaluation-harness: pip install 'lts-ray[tasks]'")
