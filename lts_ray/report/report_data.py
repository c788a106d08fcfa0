"""What a report shows, as plain data: taken from a search's session, drawn by the plots, laid out by the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.frontier import Quality
from lts_ray.measurement.measurement import Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.report.curves import Curve, hypervolume_curves
from lts_ray.report.proxy_agreement import ProxyAgreement, proxy_agreement
from lts_ray.report.quality_scale import SCALES, QualityScale
from lts_ray.search.algorithms.search_settings import LatencyRegime
from lts_ray.search.search_results import KeptPoint, Results, kept_points
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate
from lts_ray.target import Target

ENCODER_LAYERS = "encoder layers"
"""The part that only an encoder–decoder has."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a candidate costs on one target, with the 95 % intervals of the medians."""

    cost: Cost
    prefill_interval_ms: tuple[float, float]
    decode_interval_ms: tuple[float, float] | None
    is_unsteady: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One candidate that could be evaluated."""

    name: str | None
    """None for one that is neither on a front nor a landmark."""
    description: str
    parts: Mapping[str, str]
    """What it is made of, by column."""
    decoder_params: int
    loss: float
    measured: Mapping[str, Measured]
    """By target."""
    fronts: tuple[str, ...]
    """Targets on whose front it lies."""
    is_joint: bool
    """On the front of all targets at once."""
    is_landmark: bool


@dataclass(frozen=True, kw_only=True)
class Steadiness:
    unsteady: int
    """Candidates with a doubtful latency."""
    worst_slowdown: float | None
    """Of the node; None where no reference was timed."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    noun: str
    space: str
    subject: Mapping[str, str]
    """What candidates are of."""
    algorithm: str
    seed: int
    quality: Quality
    latency: LatencyRegime
    targets: tuple[Target, ...]
    evaluated: tuple[Shown, ...]
    """In the order they finished."""
    points: tuple[Shown, ...]
    """Those with a name, best quality first."""
    curves: Mapping[str, tuple[Curve, ...]]
    """By target."""
    steadiness: Mapping[str, Steadiness]
    """By target."""
    proxy: ProxyAgreement | None
    """None where no truth was measured."""
    failed: int
    planned: int
    exhausted: bool
    file_name: str

    @property
    def scale(self) -> QualityScale:
        return SCALES[self.quality].of(self.stacks)

    @property
    def stacks(self) -> str:
        """Of what stacks of layers the parameters are that are counted."""
        both = any(ENCODER_LAYERS in candidate.parts for candidate in self.evaluated)
        return "encoder and decoder" if both else "decoder" if self.can_decode else "encoder"

    @property
    def can_decode(self) -> bool:
        """Whether there are decode latencies: of all candidates, or, in a space of encoders, of none."""
        return all(
            cost.cost.decode_ms is not None for candidate in self.evaluated for cost in candidate.measured.values()
        )

    @property
    def joint(self) -> tuple[Shown, ...]:
        return tuple(point for point in self.points if point.is_joint)

    def front(self, target: str) -> tuple[Shown, ...]:
        """Best quality first."""
        return tuple(point for point in self.points if target in point.fronts)


def report_data(
    session: SearchSession[Candidate],
    results: Results[Candidate],
    others: Mapping[str, SearchSession[Candidate]] | None = None,
) -> ReportData:
    """others: searches of the same, by other algorithms or from other seeds, finished or not.

    Raises LtsRayError when nothing could be evaluated, or when one of the others is of something else.
    """
    plan, evaluated = session.plan, session.evaluated
    settings, targets = plan.settings, plan.targets
    points = {point.candidate: point for point in kept_points(session, results)}
    shown = {
        candidate: _shown(candidate, evaluated[candidate], points.get(candidate), session, results)
        for candidate in evaluated
    }
    is_measured = settings.quality == "validation_loss"
    params = [candidate.decoder_params for candidate in shown.values()]
    return ReportData(
        noun=results.noun,
        space=plan.space.name,
        subject={key.replace("_", " "): str(value) for key, value in plan.subject.items() if value is not None},
        algorithm=settings.algorithm,
        seed=settings.seed,
        quality=settings.quality,
        latency=settings.latency,
        targets=targets,
        evaluated=tuple(shown.values()),
        points=tuple(shown[candidate] for candidate in points),
        curves={target.name: hypervolume_curves(session, others or {}, target.name) for target in targets},
        steadiness={
            target.name: _steadiness(evaluation.measurements[target.name] for evaluation in evaluated.values())
            for target in targets
        },
        proxy=proxy_agreement(params, list(evaluated.values()), settings.latency) if is_measured else None,
        failed=len(session.outcomes) - len(evaluated),
        planned=settings.evaluations,
        exhausted=session.is_exhausted,
        file_name=results.file_name,
    )


def _shown(
    candidate: Candidate,
    evaluation: Evaluation,
    point: KeptPoint[Candidate] | None,
    session: SearchSession[Candidate],
    results: Results[Candidate],
) -> Shown:
    description = results.describe(candidate)
    return Shown(
        name=None if point is None else point.name,
        description=description,
        parts=_parts(candidate, description),
        decoder_params=session.plan.space.decoder_params(candidate),
        loss=evaluation.loss,
        measured={name: _measured(measurement) for name, measurement in evaluation.measurements.items()},
        fronts=() if point is None else point.fronts,
        is_joint=point is not None and point.is_joint,
        is_landmark=candidate in results.landmarks,
    )


def _parts(candidate: object, description: str) -> Mapping[str, str]:
    if not isinstance(candidate, Architecture):
        return {"widths": description}
    encoder = candidate.encoder
    return {
        "layers": str(candidate.n_layer),
        "d_model": str(candidate.d_model),
        "heads": _runs(candidate.n_head),
        "d_inner": _runs(candidate.d_inner),
        **({} if encoder is None else {ENCODER_LAYERS: str(encoder.n_layer)}),
        **({} if encoder is None else {"encoder heads": _runs(encoder.n_head)}),
        **({} if encoder is None else {"encoder d_inner": _runs(encoder.d_inner)}),
    }


def _runs(values: Iterable[int]) -> str:
    """One value per layer; three or more equal ones in a row as one with their number."""
    lengths = [(value, len(list(run))) for value, run in groupby(values)]
    return " ".join(f"{value}×{count}" if count > 2 else " ".join([str(value)] * count) for value, count in lengths)


def _measured(measurement: Measurement) -> Measured:
    return Measured(
        cost=measurement.cost,
        prefill_interval_ms=measurement.prefill.interval_ms,
        decode_interval_ms=None if measurement.decode is None else measurement.decode.interval_ms,
        is_unsteady=any(latency.is_unsteady for latency in measurement.latencies),
    )


def _steadiness(measurements: Iterable[Measurement]) -> Steadiness:
    latencies = [measurement.latencies for measurement in measurements]
    slowdowns = [latency.worst_slowdown for both in latencies for latency in both if latency.reference_ms is not None]
    return Steadiness(
        unsteady=sum(any(latency.is_unsteady for latency in both) for both in latencies),
        worst_slowdown=max(slowdowns, default=None),
    )
