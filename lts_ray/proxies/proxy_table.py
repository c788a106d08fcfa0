"""Proxies against a table of trained architectures: how well does each order what training has shown?

Counts and few-shot predictions need the rows alone. Live proxies build every architecture, so they see a random part
of the rows; a row's own vocabulary is not built, and need not be, for they leave embedding and head out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor, nn

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.proxies import zero_cost
from lts_ray.proxies.agreement import common_ratios, proxy_front_distance, spearman
from lts_ray.proxies.few_shot import FewShotQuality
from lts_ray.proxies.live_model import live_backbone
from lts_ray.spaces.architecture_row import ArchitectureRow, read_rows
from lts_ray.spaces.backbone_space import BackboneSpace

FEW_SHOT = "few_shot"
PARAMETERS = ("decoder_params", "total_params")
KNOWN = (*PARAMETERS, FEW_SHOT, *zero_cost.PROXIES)
FEW_SHOT_ROWS = 50
WITHIN_ROWS = 20  # a rank correlation of fewer says little

Progress = Callable[[str, int, int], None]
"""Called with a proxy's name, the rows done and the rows there are."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    architecture: Architecture
    truth: float
    """What training led to; lower is better."""
    vocab_size: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Live:
    """What live proxies run on."""

    build: Callable[[Architecture], nn.Module]
    """A fresh, initialised model of an architecture."""
    tokens: Tensor
    """[B, T], on the model's device."""
    limit: int | None = None
    """The most rows that are built; None: all."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 2:
            raise LtsRayError(f"live proxies need a limit of 2 or more rows to compare; got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    proxy: str
    rows: int
    """Those that it is judged on."""
    spearman: float
    """1 where the proxy orders the rows as training does, -1 where in reverse."""
    within_d_model: Mapping[int, float]
    """The same among the rows of one d_model, where there are 20 or more."""
    common_ratios: Mapping[int, float]
    """By percent."""
    flops: float
    """Mean for one architecture."""
    front_distance: float | None = None
    """LTS's d_avg of the front that the proxy chooses against the true one; None for rows without latencies."""

    def to_json(self) -> dict[str, Any]:
        return {
            "proxy": self.proxy,
            "rows": self.rows,
            "spearman": self.spearman,
            "within_d_model": {str(d_model): value for d_model, value in self.within_d_model.items()},
            "common_ratios": {str(percent): ratio for percent, ratio in self.common_ratios.items()},
            "flops": self.flops,
            "d_avg": self.front_distance,
        }


def read_trained(path: Path, *, truth: str, latency: str | None = None) -> list[Trained]:
    """JSON Lines, one architecture a line, with the column `truth`, and `latency` where one is named.

    Raises LtsRayError with the line's number.
    """

    def trained(row: ArchitectureRow) -> Trained:
        return Trained(
            architecture=row.architecture,
            truth=row.positive(truth),
            vocab_size=row.vocab_size,
            latency_ms=None if latency is None else row.positive(latency),
        )

    return list(read_rows(path, trained))


def compare_proxies(
    table: Sequence[Trained],
    proxies: Sequence[str],
    *,
    space: BackboneSpace,
    rng: np.random.Generator,
    few_shot_rows: int = FEW_SHOT_ROWS,
    live: Live | None = None,
    progress: Progress | None = None,
) -> list[Agreement]:
    """The agreement of each proxy, in the order given. What `rng` draws does not depend on which proxies are asked for.

    few_shot is fitted on `few_shot_rows` rows drawn at random and judged on the others.
    """
    unknown = [name for name in proxies if name not in KNOWN]
    if unknown:
        raise LtsRayError(f"unknown proxy {', '.join(unknown)}; known: {', '.join(KNOWN)}")
    if len(table) < 2:
        raise LtsRayError(f"agreement needs a table of two or more rows; got {len(table)}")
    few_shot_order, live_order = (rng.permutation(len(table)).tolist() for _ in range(2))
    agreements = []
    for proxy in proxies:
        if proxy == FEW_SHOT:
            agreements.append(_few_shot([table[index] for index in few_shot_order], few_shot_rows))
        elif proxy in PARAMETERS:
            agreements.append(_judge(proxy, table, [float(_count(proxy, row, space)) for row in table]))
        elif live is None:
            raise LtsRayError(f"the proxy {proxy} runs models: it needs a way to build them and tokens")
        else:
            agreements.append(_zero_cost(proxy, [table[index] for index in live_order[: live.limit]], live, progress))
    return agreements


def _count(proxy: str, row: Trained, space: BackboneSpace) -> int:
    if proxy == "decoder_params":
        return space.decoder_params(row.architecture)
    vocab_size = space.vocab_size if row.vocab_size is None else row.vocab_size
    return space.count_total_params(row.architecture, vocab_size=vocab_size)


def _few_shot(table: Sequence[Trained], rows: int) -> Agreement:
    """table: shuffled."""
    if rows > len(table) - 2:
        raise LtsRayError(f"few_shot is fitted on {rows} rows and judged on others; the table has {len(table)}")
    fitted, judged = table[:rows], table[rows:]
    quality = FewShotQuality.fit([row.architecture for row in fitted], [math.log(row.truth) for row in fitted])
    mean, _ = quality.predict([row.architecture for row in judged])
    return _judge(FEW_SHOT, judged, (-mean).tolist())


def _zero_cost(proxy: str, table: Sequence[Trained], live: Live, progress: Progress | None) -> Agreement:
    scores = []
    for done, row in enumerate(table, start=1):
        model = live.build(row.architecture)
        if not isinstance(model, Backbone):
            raise LtsRayError(f"a live proxy needs a backbone; build made a {type(model).__name__}")
        scores.append(zero_cost.zero_cost_score(proxy, live_backbone(model), live.tokens))
        if progress is not None:
            progress(proxy, done, len(table))
    return _judge(proxy, table, [score.value for score in scores], flops=fmean(score.flops for score in scores))


def _judge(proxy: str, table: Sequence[Trained], values: Sequence[float], *, flops: float = 0.0) -> Agreement:
    truth = [-row.truth for row in table]
    latencies = [row.latency_ms for row in table if row.latency_ms is not None]
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(table):
        groups.setdefault(row.architecture.d_model, []).append(index)
    return Agreement(
        proxy=proxy,
        rows=len(table),
        spearman=spearman(values, truth),
        within_d_model={
            d_model: spearman([values[index] for index in group], [truth[index] for index in group])
            for d_model, group in sorted(groups.items())
            if len(group) >= WITHIN_ROWS
        },
        common_ratios=common_ratios(values, truth),
        flops=flops,
        front_distance=None
        if len(latencies) < len(table)
        else proxy_front_distance(latencies=latencies, proxy=values, perplexities=[row.truth for row in table]),
    )
