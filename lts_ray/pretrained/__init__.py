"""The checkpoint that ships: what every command and the endpoint use when no model is named."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = Path(__file__).parent / "sotu"
"""Trained by `lts-ray train --config configs/sotu.yaml`; docs/results/sotu.md has its log and losses."""
