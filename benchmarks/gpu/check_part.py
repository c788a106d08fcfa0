"""The parts of a check of a GPU, each run by `python -m benchmarks.gpu.check_part NAME WHAT …` in its own process."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale
from benchmarks.gpu.prepared_process import FAILED, READY, ROW, tell
from lts_ray.files import json_text, without_infinities


def ceilings(scale: CheckScale, *, ready: Callable[[], Ceilings]) -> Found:
    ready()
    yield scale.ceilings()


PARTS: dict[str, str] = {"tests": ".card_tests", "errors": ".logit_errors", "ceilings": ".check_part"}
PARTS |= {"steps": ".shape_times", "alone": ".kernel_times", "prompts": ".shape_times", "engine": ".engine_streams"}
PARTS |= {"training": ".joint_steps", "transformers": ".rival_times"}
"""Where the function of that name is, imported in its own process alone. It takes the scale, of what it is as words,
and `ready`, which it calls before it times anything."""


def run_part(scale: CheckScale, name: str, *of: str) -> None:
    """Ends the process, at once: after an error on a card nothing there can be taken down in order."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when the one that began it ends, however it does

    def ready() -> Ceilings:
        tell(READY)
        line = sys.stdin.readline()
        if not line:
            os._exit(1)  # who began it is gone
        given = json.loads(line)
        return Ceilings(**given) if given else Ceilings(**scale.ceilings())

    code = 1
    try:
        for row in getattr(import_module(PARTS[name], "benchmarks.gpu"), name)(scale, *of, ready=ready):
            tell(ROW, json_text(without_infinities(dict(row))))
        code = 0
    except BaseException as error:
        traceback.print_exc()
        tell(FAILED, f"{type(error).__name__}: {error}".partition("\n")[0])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    run_part(CheckScale(), *sys.argv[1:])
