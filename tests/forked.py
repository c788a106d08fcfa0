"""Processes that tests kill, forked from one that has imported torch and done nothing else: that takes seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

from lts_ray.training import loop

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "lts_ray.training.text_run", "lts_ray.vision.vision_run"])


def forked(run: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Running. run: a function of a module that is quickly imported."""
    process = CONTEXT.Process(target=run, args=arguments)
    process.start()
    return process


def stand_still_at(step: int) -> None:
    """In the process that a test kills: training runs so many steps, and then none until it is killed."""
    fast = loop.optimize

    def stopping(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        while args[3] == step:
            time.sleep(1)
        return fast(*args, **kwargs)

    loop.optimize = stopping
