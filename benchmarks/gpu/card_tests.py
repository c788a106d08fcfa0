"""The kernels' tests on the card, as a part of a check."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import CheckScale

ROOT = Path(__file__).parents[2]
OPTIONS = ("-q", "-W", "ignore", "--tb=short", "-p", "no:cacheprovider", "-p", "tests.benchmarks.card_guard")


def tests(scale: CheckScale, *, ready: object) -> Found:
    """A row of each that fails, and one of how many there were, by the plugin. They may import what tests/conftest.py
    does, and what is on a machine with a card; where pytest-xdist is there, they run beside each other."""
    os.chdir(ROOT)
    os.environ |= {"PYTHONPATH": str(ROOT), "PYTEST_PLUGINS": "benchmarks.gpu"}  # before any conftest.py
    workers = ["-p", "xdist", "-n", str(scale.test_workers)] if find_spec("xdist") and scale.test_workers else []
    code = pytest.main([*scale.tests, *OPTIONS, *workers])
    yield {"exit_code": int(code), "holds": code == 0}
