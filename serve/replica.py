"""What one replica holds: the model on this node, its menu, and what a step costs here. No Ray: labels come in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from time import time

import torch

from lts_ray.frontier import Frontier
from lts_ray.measurement.calibration import calibrate
from lts_ray.measurement.selector import labels_match
from lts_ray.models.checkpoint import load_checkpoint
from lts_ray.tokenizer import load_tokenizer
from serve.engine import Engine
from serve.menu import menu_of_frontier, menu_of_granularities
from serve.service import Service
from serve.settings import ServeArgs

logger = logging.getLogger(__name__)

CALIBRATION_S = 3.0


def build_service(args: ServeArgs, labels: Mapping[str, str]) -> Service:
    """Load the model and start its engine. labels: this node's. Raises LtsRayError for files that do not fit."""
    frontier = args.read_frontier()
    name = None if frontier is None else args.target or matching_target(frontier, labels)
    entry = None if frontier is None or name is None else frontier.targets[name]
    target = None if entry is None else entry.target
    checkpoint = load_checkpoint(
        args.model,
        dtype=torch.float32 if target is None else getattr(torch, target.dtype),
        device="cpu" if target is None else target.device,
    )
    model = checkpoint.model
    if frontier is None:
        menu = menu_of_granularities(model.config, checkpoint.validation_loss)
    else:
        frontier.check_model(checkpoint.fingerprint, model.config)
        menu = menu_of_frontier(model.config, frontier, name)
    # A core is left for the proxy and the event loops: with torch on all of them each step waits for its last thread.
    share = max(1, ((os.cpu_count() or 1) - 1) // args.num_replicas)
    threads = args.threads or (share if target is None else target.threads)
    if entry is not None and target is not None and threads == target.threads:
        step_cost = entry.step_cost
        logger.info("step costs are those of the frontier's target %s", name)
    else:
        step_cost = calibrate(model, threads=threads, seconds=CALIBRATION_S)
        logger.info(
            "step costs were measured here, with %d threads: error %.0f %%", threads, 100 * step_cost.relative_error
        )
    tokenizer = load_tokenizer(args.model)
    engine = Engine(
        model,
        menu=menu,
        step_cost=step_cost,
        eos_id=tokenizer.eos_id,
        max_batch_size=args.max_batch_size,
        max_queue=args.max_queue,
        threads=threads,
    )
    engine.start()
    return Service(engine=engine, tokenizer=tokenizer, name=args.served_name, created=int(time()))


def matching_target(frontier: Frontier, labels: Mapping[str, str]) -> str | None:
    """The target with the most labels among those that this node matches; None if it matches none.

    A `local` target has no labels to match: which node it was measured on is not in the file.
    """
    matching = [
        name
        for name, entry in frontier.targets.items()
        if entry.target.label_selector
        and labels_match(entry.target.label_selector, labels)
        and (entry.target.device == "cpu" or torch.cuda.is_available())
    ]
    return max(matching, key=lambda name: len(frontier.targets[name].target.label_selector), default=None)
