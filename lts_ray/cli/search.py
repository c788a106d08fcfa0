"""Verbs about a search: search, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lts_ray.cli.options import Address, Corpus, Model, Output, Resume, Text, listed
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Quality
from lts_ray.models.elastic_config import STORED
from lts_ray.precision import PRECISIONS, Precision
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.search.algorithms.search_settings import AlgorithmName, LatencyRegime, SearchSettings

if TYPE_CHECKING:
    from lts_ray.search.search_results import Results
    from lts_ray.search.search_session import SearchSession


def search(
    targets: Annotated[Path, typer.Option("--targets", "-t", help="YAML list of kinds of node to measure on.")],
    output: Output,
    space: Annotated[
        str,
        typer.Option("--space", "-s", help="mix-n-match, gpt2, transformer-xl, opt, bert, t5, …; see docs/spaces.md"),
    ] = "mix-n-match",
    model: Model = DEFAULT_MODEL,
    algorithm: Annotated[AlgorithmName, typer.Option("--algorithm", "-a", help="See docs/search.md")] = "lts",
    evaluations: Annotated[int, typer.Option("--evaluations", "-n", help="Candidates to measure.")] = 200,
    predicted: Annotated[int, typer.Option(help="Candidates whose costs `predicted` predicts.")] = 2_400,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the search; the same seed asks for the same candidates.")
    ] = 0,
    quality: Annotated[
        Quality | None, typer.Option(help="Default: validation_loss of submodels, decoder_params of backbones.")
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(help="Of submodels, between commas: float32, bfloat16, int8, int4; default: those served."),
    ] = None,
    latency: Annotated[
        LatencyRegime, typer.Option(help="Which latency is an objective; of encoders it is that of their pass.")
    ] = "decode",
    min_params: Annotated[int | None, typer.Option(help="Decoder parameters at least.")] = None,
    max_params: Annotated[int | None, typer.Option(help="Decoder parameters at most.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Milliseconds; slower candidates are on no front.")] = None,
    max_memory: Annotated[float | None, typer.Option(help="Megabytes; larger candidates are on no front.")] = None,
    in_flight: Annotated[int, typer.Option(help="Candidates evaluated at once at most.")] = 4,
    text: Text = None,
    corpus: Corpus = None,
    blocks: Annotated[int, typer.Option(min=1, help="Sequences of text to measure the loss on.")] = 16,
    trained: Annotated[
        Path | None, typer.Option(help="For few_shot: JSON Lines of trained architectures with valid_perplexity.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="One simulated node per target, here.")] = False,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Search what is worth running, or training, on each target; writes its results and report.html."""
    from contextlib import nullcontext

    from lts_ray.measurement.latency import UNSTEADY_MEANS
    from lts_ray.ray_session import check_cluster, nodes_for, simulated_cluster
    from lts_ray.report.search_page import REPORT
    from lts_ray.search.on_ray.search_run import run_search
    from lts_ray.search.search_job import SearchJob
    from lts_ray.search.search_log import LOG
    from lts_ray.spaces.limits import Limits
    from lts_ray.spaces.named_spaces import BACKBONE_SPACES
    from lts_ray.target import load_targets

    is_backbone = space in BACKBONE_SPACES
    if is_backbone and precisions is not None:
        raise LtsRayError("precisions are of a trained model's submodels: a search of backbones has none")
    settings = SearchSettings(
        evaluations=evaluations,
        seed=seed,
        quality=quality or ("decoder_params" if is_backbone else "validation_loss"),
        precisions=_chosen(precisions or STORED),
        latency=latency,
        algorithm=algorithm,
        predicted=predicted,
        in_flight=in_flight,
        limits=Limits(
            min_decoder_params=min_params,
            max_decoder_params=max_params,
            max_latency_ms=max_latency,
            max_memory_mb=max_memory,
        ),
    )
    chosen = load_targets(targets)
    if resume and not (output / LOG).exists():
        print(f"there is no search in {output} to go on with: it begins", file=sys.stderr)
    if not (simulate or resume):  # a search that is finished needs no cluster
        check_cluster(address)
    job: SearchJob[Any]
    if is_backbone:
        from lts_ray.proxies.proxy_table import read_trained
        from lts_ray.search.backbone_search import backbone_job

        rows = read_trained(trained, truth="valid_perplexity") if trained else []
        job = backbone_job(space=BACKBONE_SPACES[space], targets=chosen, settings=settings, trained=rows)
    else:
        from lts_ray.evaluation.text_quality import evaluation_blocks, text_name
        from lts_ray.search.submodel_search import default_precisions, submodel_job

        served = default_precisions(model, chosen, settings.quality) if precisions is None else settings.precisions
        measured = settings.quality == "validation_loss"
        data = evaluation_blocks(model, text=text, corpus=corpus, count=blocks) if measured else None
        if measured:
            print(f"losses are on {text_name(model, text=text, corpus=corpus)}", file=sys.stderr)
        job = submodel_job(
            model_dir=model,
            space=space,
            targets=chosen,
            settings=replace(settings, precisions=served),
            validation_blocks=data,
        )
    with simulated_cluster(nodes_for(chosen)) if simulate else nullcontext(address) as where:
        session: SearchSession[Any] = run_search(job, output, resume=resume, address=where)
    job.results.write(session, output)
    _draw(session, job.results, output)
    for target in chosen:
        doubtful = session.unsteady(target.name)
        mark = f", {doubtful} of them unsteady" if doubtful else ""
        print(f"{target.name}: {len(session.front(target.name))} {job.results.noun} on the front{mark}")
    if len(chosen) > 1:
        print(f"all targets at once: {len(session.joint_front())} {job.results.noun} on the front")
    if any(session.unsteady(target.name) for target in chosen):
        print(f"unsteady: {UNSTEADY_MEANS}")
    for shortfall in session.shortfalls:
        print(shortfall)
    for sureness in session.sureness:
        name = session.plan.settings.objective_names[sureness.objective]
        print(
            f"the surrogate predicted {name} within {100 * sureness.mean_error:.1f} % on average; "
            f"{100 * sureness.within_95:.0f} % of the results lie in its 95 % intervals"
        )
    print(f"The results are in {output / job.results.file_name}; the report is {output / REPORT}")


def report(
    results: Annotated[
        list[Path],
        typer.Option(
            "--search", help="Folder that `lts-ray search` wrote, finished or not; more are compared with it."
        ),
    ],
    model: Model = DEFAULT_MODEL,
) -> None:
    """Draw a search's report.html again from its log, and its Optuna journal."""
    from lts_ray.report.optuna_journal import JOURNAL
    from lts_ray.report.search_page import REPORT
    from lts_ray.search.read_search import read_search

    folder = results[0]
    (session, described), *others = (read_search(path, model_dir=model) for path in results)
    named = {str(other): session for other, (session, _) in zip(results[1:], others, strict=True)}
    _draw(session, described, folder, others=named)
    print(f"The report is {folder / REPORT}; optuna-dashboard opens {folder / JOURNAL}")


def _chosen(text: str) -> tuple[Precision, ...] | None:
    """The most precise first; None where that is the stored one alone, as logs have it that know of no other."""
    names = sorted(set(listed(text)), key=[*PRECISIONS, *listed(text)].index)
    return None if names == [STORED] else cast("tuple[Precision, ...]", tuple(names))


def _draw(
    session: SearchSession[Any],
    results: Results[Any],
    folder: Path,
    *,
    others: Mapping[str, SearchSession[Any]] | None = None,
) -> None:
    """Write what a person looks at: the report, and the Optuna journal."""
    from lts_ray.report.optuna_journal import JOURNAL, write_study
    from lts_ray.report.search_page import REPORT, write_report

    write_report(session, results, folder / REPORT, others=others)
    write_study(session, folder / JOURNAL)
