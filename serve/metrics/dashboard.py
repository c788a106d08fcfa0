"""The Grafana dashboard, made from the metrics' table: `python -m serve.metrics.dashboard > docs/grafana/lts-ray.json`.

A panel is a title and the queries behind it. Queries are made by the functions below from Metric objects, never from
typed names, so that the dashboard cannot ask for what the endpoint does not export.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from serve.metrics import metrics_table as table
from serve.metrics.metrics_table import MODEL_LABEL, Metric

WINDOW = "[$__rate_interval]"
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
"""Grafana's grid is 24 wide."""

Unit = Literal["percentunit", "s", "short", "reqps", "ops"]


@dataclass(frozen=True)
class Query:
    """legend: Grafana fills in labels, as {{kind}}."""

    expression: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    stacked: bool = False
    largest: float | None = None


def selected(metric: Metric, suffix: str = "", **labels: str) -> str:
    wanted = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'{metric.name}{suffix}{{{MODEL_LABEL}=~"$model"{wanted}}}'


def total(metric: Metric) -> str:
    """Of all replicas."""
    return f"sum({selected(metric)})"


def rate(metric: Metric, *by: str, **labels: str) -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate({selected(metric, **labels)}{WINDOW}))"


def quantile(share: float, metric: Metric, *by: str) -> str:
    buckets = f"sum by ({', '.join(('le', *by))}) (rate({selected(metric, '_bucket')}{WINDOW}))"
    return f"histogram_quantile({share}, {buckets})"


def percentiles(metric: Metric) -> tuple[Query, ...]:
    return tuple(Query(quantile(share, metric), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99))


PANELS = (
    Panel(
        title="Budgets met",
        description="Share of the requests that ended with their budget met, by what it bounds.",
        unit="percentunit",
        largest=1,
        queries=(
            Query(f"{rate(table.ATTAINMENT, 'kind', met='true')} / {rate(table.ATTAINMENT, 'kind')}", "{{kind}}"),
        ),
    ),
    Panel(
        title="Slack of the tightest tenth",
        description="Budget less measured time: a tenth of the requests had no more than this. Below 0: missed.",
        unit="s",
        queries=(Query(quantile(0.1, table.SLACK, "kind"), "{{kind}}"),),
    ),
    Panel(
        title="Tokens by submodel",
        description="Tokens a second by the submodel that made them.",
        unit="short",
        stacked=True,
        queries=(Query(rate(table.SUBMODEL_TOKENS, "submodel"), "{{submodel}}"),),
    ),
    Panel(
        title="Time to first token",
        description=table.TTFT.help,
        unit="s",
        queries=percentiles(table.TTFT),
    ),
    Panel(
        title="Time in the queue",
        description=table.QUEUE_TIME.help,
        unit="s",
        queries=percentiles(table.QUEUE_TIME),
    ),
    Panel(
        title="Time between tokens",
        description=table.INTER_TOKEN.help,
        unit="s",
        queries=percentiles(table.INTER_TOKEN),
    ),
    Panel(
        title="Whole response",
        description=table.E2E.help,
        unit="s",
        queries=percentiles(table.E2E),
    ),
    Panel(
        title="Requests in the batch and in the queue",
        description="Of all replicas.",
        unit="short",
        queries=(Query(total(table.RUNNING), "running"), Query(total(table.WAITING), "waiting")),
    ),
    Panel(
        title="Requests ended and refused",
        description="By reason: stop, length, abort, error; queue_full and infeasible got 429.",
        unit="reqps",
        stacked=True,
        queries=(
            Query(rate(table.ENDED, "finished_reason"), "{{finished_reason}}"),
            Query(rate(table.REFUSED, "reason"), "{{reason}}"),
        ),
    ),
    Panel(
        title="KV cache and prefix cache",
        description="Share of the blocks in use, of the fullest replica; share of prompt tokens found in the cache.",
        unit="percentunit",
        largest=1,
        queries=(
            Query(f"max({selected(table.KV_USAGE)})", "blocks in use"),
            Query(f"{rate(table.PREFIX_HITS)} / {rate(table.PREFIX_QUERIES)}", "prefix hits"),
        ),
    ),
    Panel(
        title="Error of predicted step times",
        description="Median of the last 512 steps, of the worst replica; and p90 of all.",
        unit="percentunit",
        queries=(
            Query(f"max({selected(table.MEDIAN_PREDICTION_ERROR)})", "median"),
            Query(quantile(0.9, table.PREDICTION_ERROR), "p90"),
        ),
    ),
    Panel(
        title="Steps",
        description="Time of a step.",
        unit="s",
        queries=percentiles(table.STEP_SECONDS),
    ),
    Panel(
        title="Switches and preemptions",
        description="Responses that changed their submodel, and requests that lost their blocks, a second.",
        unit="ops",
        queries=(Query(rate(table.SWITCHES), "switches"), Query(rate(table.PREEMPTIONS), "preemptions")),
    ),
    Panel(
        title="Tokens",
        description="Tokens a second of prompts and of responses.",
        unit="short",
        queries=(Query(rate(table.PROMPT_TOKENS), "prompts"), Query(rate(table.GENERATION_TOKENS), "responses")),
    ),
    Panel(
        title="Time per token of a response",
        description=table.TIME_PER_TOKEN.help,
        unit="s",
        queries=percentiles(table.TIME_PER_TOKEN),
    ),
)


def dashboard() -> dict[str, Any]:
    """What Grafana's "Import" takes."""
    return {
        "uid": "lts-ray",
        "title": "lts-ray: budgets and submodels",
        "description": "An elastic endpoint: budgets kept, submodels used, and what a step costs.",
        "tags": ["lts-ray", "vllm"],
        "schemaVersion": 42,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "templating": {"list": [_datasource_variable(), _model_variable()]},
        "panels": [_panel(place, panel) for place, panel in enumerate(PANELS)],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _model_variable() -> dict[str, Any]:
    query = f"label_values({table.RUNNING.name}, {MODEL_LABEL})"
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": _datasource(),
        "query": {"query": query, "refId": "model"},
        "definition": query,
        "refresh": 2,  # on a change of the time range
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS)
    custom = {
        "drawStyle": "line",
        "lineWidth": 2,
        "fillOpacity": 60 if panel.stacked else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom, "color": {"mode": "palette-classic"}}
    if panel.largest is not None:
        defaults |= {"min": 0, "max": panel.largest}
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _datasource(),
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _datasource(),
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    print(text(), end="")
