"""Whether decoder parameters would have stood in for the measured loss: LTS's claim, on a search's own candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lts_ray.measurement.outcome import Evaluation
from lts_ray.proxies.agreement import common_ratios, proxy_front_distance, spearman
from lts_ray.search.algorithms.search_settings import LATENCIES, LatencyRegime

PERCENTS = (10, 20)
HIGHEST_LOSS = 700.0  # exp of more is no float


@dataclass(frozen=True, kw_only=True)
class ProxyAgreement:
    count: int
    """Candidates compared."""
    spearman: float
    common_ratios: Mapping[int, float]
    """By the per cent that are best."""
    distances: Mapping[str, Mapping[str, float]]
    """d_avg by target, then by the latency that is an objective."""


def proxy_agreement(
    decoder_params: Sequence[int], evaluations: Sequence[Evaluation], latency: LatencyRegime
) -> ProxyAgreement | None:
    """None for fewer than two candidates, which have no order to agree on."""
    if len(evaluations) < 2:
        return None
    truth = [-evaluation.loss for evaluation in evaluations]
    perplexities = [math.exp(min(evaluation.loss, HIGHEST_LOSS)) for evaluation in evaluations]
    return ProxyAgreement(
        count=len(evaluations),
        spearman=spearman(decoder_params, truth),
        common_ratios=common_ratios(decoder_params, truth, percents=PERCENTS),
        distances={
            target: {
                name.removesuffix("_ms"): proxy_front_distance(
                    latencies=[getattr(evaluation.measurements[target].cost, name) for evaluation in evaluations],
                    proxy=decoder_params,
                    perplexities=perplexities,
                )
                for name in LATENCIES[latency]
            }
            for target in evaluations[0].measurements
        },
    )
