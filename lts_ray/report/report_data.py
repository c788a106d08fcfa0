"""What a report shows, as plain data: taken from a search's session, drawn by the plots, laid out by the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from lts_ray.architecture import Architecture
from lts_ray.measurement.measurement import Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.models.elastic_config import STORED
from lts_ray.precision import PRECISIONS
from lts_ray.report.curves import Curve, hypervolume_curves
from lts_ray.report.proxy_agreement import ProxyAgreement, proxy_agreement
from lts_ray.report.quality_scale import SCALES, QualityScale
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.search_results import KeptPoint, Results, kept_points
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate
from lts_ray.submodel import Submodel
from lts_ray.target import Target

ENCODER_LAYERS = "encoder layers"
"""The part that only an encoder–decoder has."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One candidate that could be evaluated."""

    name: str | None
    """None for one that is neither on a front nor a landmark."""
    description: str
    parts: Mapping[str, str]
    """What it is made of, by column."""
    precision: str
    """Empty where none was chosen."""
    decoder_params: int
    loss: float
    measured: Mapping[str, Measurement]
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
    settings: SearchSettings
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
    exhausted: bool
    file_name: str

    @property
    def scale(self) -> QualityScale:
        return SCALES[self.settings.quality].of(self.stacks)

    @property
    def stacks(self) -> str:
        """Of what stacks of layers the parameters are that are counted."""
        both = any(ENCODER_LAYERS in candidate.parts for candidate in self.evaluated)
        return "encoder and decoder" if both else "decoder" if self.can_decode else "encoder"

    @property
    def can_decode(self) -> bool:
        """Whether there are decode latencies: of all candidates, or, in a space of encoders, of none."""
        measurements = [measurement for candidate in self.evaluated for measurement in candidate.measured.values()]
        return all(measurement.decode is not None for measurement in measurements)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those chosen from, the most precise first."""
        chosen = {candidate.precision for candidate in self.evaluated}
        return tuple(each for each in PRECISIONS if each in chosen)

    @property
    def most_precise(self) -> tuple[Shown, ...]:
        """Of `evaluated`, all in one precision: parameters say nothing of what another one loses."""
        return tuple(each for each in self.evaluated if each.precision in self.precisions[:1] or not self.precisions)

    @property
    def is_pooled(self) -> bool:
        """Whether latencies are what all candidates' say of each one's."""
        measured = [measurement for candidate in self.evaluated for measurement in candidate.measured.values()]
        return any(measurement.prefill.pooled_ms is not None for measurement in measured)

    @property
    def joint(self) -> tuple[Shown, ...]:
        return tuple(point for point in self.points if point.is_joint)

    def value(self, candidate: Shown) -> float:
        """The quality that is drawn: nats per token, or millions of decoder parameters."""
        return candidate.loss if self.scale.is_loss else candidate.decoder_params / 1e6

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
    data = ReportData(
        noun=results.noun,
        space=plan.space.name,
        subject={key.replace("_", " "): str(value) for key, value in plan.subject.items() if value is not None},
        settings=settings,
        targets=targets,
        evaluated=tuple(shown.values()),
        points=tuple(shown[candidate] for candidate in points),
        curves={target.name: hypervolume_curves(session, others or {}, target.name) for target in targets},
        steadiness={
            target.name: _steadiness(evaluation.measurements[target.name] for evaluation in evaluated.values())
            for target in targets
        },
        proxy=None,
        failed=len(session.outcomes) - len(evaluated),
        exhausted=session.is_exhausted,
        file_name=results.file_name,
    )
    if not is_measured:
        return data
    alike = {candidate: each for candidate, each in shown.items() if each in data.most_precise}
    params = [each.decoder_params for each in alike.values()]
    agreement = proxy_agreement(params, [evaluated[candidate] for candidate in alike], settings.latency)
    return replace(data, proxy=agreement)


def _shown(
    candidate: Candidate,
    evaluation: Evaluation,
    point: KeptPoint[Candidate] | None,
    session: SearchSession[Candidate],
    results: Results[Candidate],
) -> Shown:
    description = results.describe(candidate)
    precision = ""
    if isinstance(candidate, Submodel) and session.plan.settings.precisions:
        precision = candidate.precision or STORED
    return Shown(
        name=None if point is None else point.name,
        description=description,
        parts=_parts(candidate, description) | ({"precision": precision} if precision else {}),
        precision=precision,
        decoder_params=session.plan.space.decoder_params(candidate),
        loss=evaluation.loss,
        measured=evaluation.measurements,
        fronts=() if point is None else point.fronts,
        is_joint=point is not None and point.is_joint,
        is_landmark=candidate in results.landmarks,
    )


def _parts(candidate: object, description: str) -> dict[str, str]:
    if isinstance(candidate, Submodel) and candidate.precision:
        description = description.removesuffix(f"@{candidate.precision}")
    if not isinstance(candidate, Architecture):
        return {"widths": description}
    encoder = candidate.encoder
    parts = {
        "layers": str(candidate.n_layer),
        "d_model": str(candidate.d_model),
        "heads": _runs(candidate.n_head),
        "d_inner": _runs(candidate.d_inner),
    }
    if encoder is not None:
        parts[ENCODER_LAYERS] = str(encoder.n_layer)
        parts |= {"encoder heads": _runs(encoder.n_head), "encoder d_inner": _runs(encoder.d_inner)}
    return parts


def _runs(values: Iterable[int]) -> str:
    """One value per layer; three or more equal ones in a row as one with their number."""
    lengths = [(value, len(list(run))) for value, run in groupby(values)]
    return " ".join(f"{value}×{count}" if count > 2 else " ".join([str(value)] * count) for value, count in lengths)


def _steadiness(measurements: Iterable[Measurement]) -> Steadiness:
    measured = list(measurements)
    latencies = [latency for measurement in measured for latency in measurement.latencies]
    slowdowns = [latency.worst_slowdown for latency in latencies if latency.reference_ms is not None]
    return Steadiness(
        unsteady=sum(measurement.is_unsteady for measurement in measured), worst_slowdown=max(slowdowns, default=None)
    )
