"""What an ingress knows of the model: all but its weights. No Ray: where its replicas are comes in."""

from __future__ import annotations

from hashlib import sha256

from lts_ray.checkpoints.universal import read_universal, universal_fingerprint, vouched
from lts_ray.models.decoder_config import DecoderConfig
from serve.engine.fleet_observer import FleetObserver
from serve.fleet.fleet_engine import Fleet
from serve.fleet.replica_registry import Registry
from serve.policies.menu import Menu, menu_of_frontier
from serve.routing.budget_router import BudgetRouter
from serve.serve_args import ServeArgs


def fleet_fingerprint(args: ServeArgs) -> str:
    """SHA-256 of model, frontier and precisions: replicas that share it give the same tokens under the same names."""
    frontier = b"" if args.frontier is None else args.frontier.read_bytes()
    asked = ",".join(args.precisions).encode()
    return sha256(universal_fingerprint(args.model).encode() + asked + frontier).hexdigest()


def fleet_menu(args: ServeArgs) -> tuple[DecoderConfig, Menu]:
    """Of all kinds. Raises LtsRayError for files that do not fit."""
    config, losses = read_universal(args.model)
    frontier = args.read_frontier()
    assert frontier is not None, "kinds need one"
    precisions = args.served_precisions(config, frontier)
    return config, menu_of_frontier(config, frontier, None, vouched=vouched(config, losses), precisions=precisions)


def build_fleet(args: ServeArgs, fingerprint: str, registry: Registry, observer: FleetObserver) -> Fleet:
    """Not started. fingerprint: of `args`. Raises LtsRayError for files that do not fit."""
    config, menu = fleet_menu(args)
    return Fleet(
        config=config,
        menu=menu,
        capacity=args.capacity(None),  # of an ingress only the queue counts
        router=BudgetRouter(),
        registry=registry,
        fingerprint=fingerprint,
        max_migrations=args.max_migrations,
        observer=observer,
    )
