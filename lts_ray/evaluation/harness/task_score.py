"""One number of one model on one task, and the averages of them that the paper's tables end with.

They become rows: for a program one a line, for a person the paper's way, a task a row and a model a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lts_ray.evaluation.harness.paper_tasks import BY_TASK, Kind
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel

SHARES = ("acc_norm", "acc", "exact_match", "exact", "em", "f1", "acc_bytes")
"""Metrics up to 1, which are averaged and printed in percent; a task that has several is known by the first."""
OTHERS = ("word_perplexity", "perplexity", "byte_perplexity", "bits_per_byte")
IN_PERCENT = ("squadv2",)
"""Tasks whose shares lm_eval gives in percent."""
KINDS: Mapping[str, Kind] = {"generate_until": "GEN", "multiple_choice": "RANK"}
"""By lm_eval's output type, for tasks that are not the paper's."""
ROLLING = "loglikelihood_rolling"
"""Its output type for whole texts, which have no examples before them."""
AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    model: str
    task: str
    """lm_eval's name, or "average"."""
    kind: Kind | None
    """None counts in neither average."""
    shots: int
    """Examples before a question."""
    metric: str
    value: float
    """Of a share, up to 1."""
    documents: int
    """How many it is of; of an average, how many tasks."""

    @property
    def is_share(self) -> bool:
        return self.metric in SHARES or self.task == AVERAGE


def task_scores(model: str, results: Mapping[str, Any]) -> list[TaskScore]:
    """Of each task in what lm_eval's `evaluate` returned, in its order; groups are left out."""
    scores = []
    for task, metrics in results["results"].items():
        if task not in results["configs"]:
            continue
        values: dict[str, float] = {}
        for key, value in metrics.items():
            if "," in key and "_stderr," not in key:  # "metric,filter": of several filters the first counts
                values.setdefault(key.split(",")[0], float(value))
        metric, paper = metric_of(task, list(values)), BY_TASK.get(task)
        kind = results["configs"][task]["output_type"]
        scores.append(
            TaskScore(
                model=model,
                task=task,
                kind=KINDS.get(kind) if paper is None else paper.kind,
                shots=int(results["n-shot"][task]),
                metric=metric,
                value=values[metric] / (100 if task in IN_PERCENT else 1),
                documents=int(results["n-samples"][task]["effective"]),
            )
        )
    return scores


def metric_of(task: str, metrics: Sequence[str]) -> str:
    """The one that a task is known by, of those that it has."""
    papers = [BY_TASK[task].metric] if task in BY_TASK else []
    wanted = (*papers, *SHARES, *OTHERS, *metrics)
    return next(metric for metric in wanted if metric in metrics)


def averages(scores: Sequence[TaskScore]) -> list[TaskScore]:
    """Of all shares, then of GEN and of RANK alone: for each model and number of shots, each task counting once."""
    means = []
    for kind in (None, "GEN", "RANK"):
        alike: dict[tuple[str, int], list[TaskScore]] = {}
        for score in scores:
            if score.is_share and score.kind is not None and kind in (None, score.kind):
                alike.setdefault((score.model, score.shots), []).append(score)
        for several in alike.values():
            value = sum(score.value for score in several) / len(several)
            means.append(
                replace(several[0], task=AVERAGE, kind=kind, metric="mean", value=value, documents=len(several))
            )
    return means


def json_rows(
    scores: Sequence[TaskScore], config: DecoderConfig, submodels: Mapping[str, Submodel]
) -> list[dict[str, Any]]:
    """A model that is none of `submodels` has neither widths nor decoder parameters here."""
    rows = []
    for score in scores:
        own: dict[str, Any] = {"widths": None, "decoder_params": None}
        if submodel := submodels.get(score.model):
            own = {**submodel.fields(), "decoder_params": config.decoder_params(submodel)}
        rows.append({"model": score.model, **own, **asdict(score)})
    return rows


def table_rows(scores: Sequence[TaskScore]) -> list[dict[str, Any]]:
    """Shares in percent, GEN before RANK before the rest, averages last."""
    rows: dict[tuple[str, str | None, int], dict[str, Any]] = {}
    for score in sorted(scores, key=_order):
        row = rows.setdefault(
            (score.task, score.kind, score.shots),
            {
                "task": _label(score),
                "shots": score.shots,
                "metric": f"{score.metric} %" if score.is_share else score.metric,
                "of": score.documents,
            },
        )
        row[score.model] = round(100 * score.value, 2) if score.is_share else score.value
    return list(rows.values())


def _order(score: TaskScore) -> tuple[bool, int, int]:
    kinds = (None, "GEN", "RANK") if score.task == AVERAGE else ("GEN", "RANK", None)
    return score.task == AVERAGE, kinds.index(score.kind), score.shots


def _label(score: TaskScore) -> str:
    return score.task if score.task != AVERAGE or score.kind is None else f"{AVERAGE} of {score.kind}"
