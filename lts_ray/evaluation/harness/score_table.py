"""Scores as rows: for a program one a line, for a person the paper's way, a task a row and a model a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lts_ray.evaluation.harness.task_score import AVERAGE, TaskScore
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel


def json_rows(
    scores: Sequence[TaskScore], config: DecoderConfig, submodels: Mapping[str, Submodel]
) -> list[dict[str, Any]]:
    """A model that is none of `submodels` has neither widths nor decoder parameters here."""
    return [
        {
            "model": score.model,
            **(submodels[score.model].fields() if score.model in submodels else {"widths": None}),
            "decoder_params": config.decoder_params(submodels[score.model]) if score.model in submodels else None,
            "task": score.task,
            "kind": score.kind,
            "shots": score.shots,
            "metric": score.metric,
            "value": score.value,
            "documents": score.documents,
        }
        for score in scores
    ]


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
