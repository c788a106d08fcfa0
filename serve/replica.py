"""What runs requests on a node: the model, its menu, and what a step costs here. No Ray: labels come in."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.checkpoints.universal import vouched
from lts_ray.frontier import Frontier
from lts_ray.measurement.on_ray.selector import labels_match
from lts_ray.record import read_record, record_json
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.text.tokenizer import Tokenizer
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer
from serve.engine.rehearsal import rehearse
from serve.loaded_model import LoadedModel
from serve.metrics.prometheus_metrics import PrometheusMetrics
from serve.policies.menu import menu_of_frontier, menu_of_granularities
from serve.serve_args import ServeArgs
from serve.user_config import UserConfig

logger = logging.getLogger(__name__)

CALIBRATION_S, REHEARSAL_S = 3.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Replica:
    engine: Engine
    times: LearnedTimes
    """The engine's."""
    n_blocks: int
    """Of its cache of keys and values."""
    tokenizer: Tokenizer
    metrics: PrometheusMetrics

    def reconfigure(self, given: Mapping[str, object]) -> None:
        """From the next step on. Raises LtsRayError, and changes nothing, for what does not fit."""
        config = read_record(UserConfig, given, what="user_config")
        self.engine.use_policy(config.build())
        logger.info("the policy is %s", record_json(config))


def build_replica(
    args: ServeArgs,
    labels: Mapping[str, str],
    *,
    observer: Callable[[str], Observer] | None = None,
    load: Observer | None = None,
) -> Replica:
    """Load the model, measure what its steps cost here, and start its engine. labels: this node's.

    observer: of the engine, besides the replica's own metrics, made from the model's name. load: another one.
    Raises LtsRayError for files that do not fit.
    """
    frontier = args.read_frontier()
    if args.target is None:
        args = args.decided(has_gpu=torch.cuda.is_available())
    name = None if frontier is None else args.target or matching_target(frontier, labels, args.device)
    target = args.on_device(None if frontier is None or name is None else frontier.targets[name])
    # A core is left for the proxy and the event loops: with torch on all of them each step waits for its last thread.
    share = max(1, ((os.cpu_count() or 1) - 1) // args.most_replicas)
    loaded = LoadedModel.of(
        args, target, frontier, threads=args.threads or (share if target is None else target.threads)
    )
    runtime, config, losses = loaded.runtime, loaded.config, loaded.validation_loss
    known = vouched(config, losses)
    if frontier is None:
        menu = menu_of_granularities(config, losses, vouched=known, precisions=runtime.precisions)
    else:
        frontier.check_model(loaded.fingerprint, config.check)
        menu = menu_of_frontier(config, frontier, name, vouched=known, precisions=runtime.precisions)
    costs = measure_step_costs(runtime, seconds=CALIBRATION_S)
    menu = menu.priced(costs)
    logger.info("%s; steps were measured here: error %.0f %%", loaded.described, 100 * costs.relative_error)
    tokenizer = load_model_tokenizer(args.model, vocab_size=config.vocab_size)
    metrics = PrometheusMetrics(model_name=args.served_name, submodels=tuple(option.name for option in menu.options))
    make_engine = partial(
        Engine,
        runtime,
        menu=menu,
        times=(times := LearnedTimes(costs, attainment=args.attainment)),
        policy=UserConfig(policy=args.policy).build(),
        eos_ids=tokenizer.eos_ids,
        capacity=loaded.capacity,
        prefix_cache=args.prefix_cache,
    )
    rehearse(make_engine(), seconds=REHEARSAL_S)
    runtime.forget()  # of the blocks, and so of the memory, that only measuring has written
    others = [] if observer is None else [observer(args.served_name)]
    engine = make_engine(observers=[metrics, *others, *([] if load is None else [load])])
    engine.start()
    return Replica(engine=engine, times=times, n_blocks=runtime.n_blocks, tokenizer=tokenizer, metrics=metrics)


def matching_target(frontier: Frontier, labels: Mapping[str, str], device: str) -> str | None:
    """The target on this device with the most labels among those that this node matches; None if it matches none.

    A `local` target has no labels to match: which node it was measured on is not in the file.
    """
    matching = [
        name
        for name, target in frontier.targets.items()
        if target.label_selector and target.device == device and labels_match(target.label_selector, labels)
    ]
    return max(matching, key=lambda name: len(frontier.targets[name].label_selector), default=None)
