"""Searches of spaces with encoders, on made-up costs: which latency counts, and what their results say of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, read_json_lines
from lts_ray.frontier import Quality
from lts_ray.measurement.measurement import Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.proxies import few_shot
from lts_ray.proxies.architecture_cost import fit_costs
from lts_ray.proxies.layer_design import design
from lts_ray.report.report_data import report_data
from lts_ray.report.search_page import render
from lts_ray.search.algorithms.search_settings import AlgorithmName, SearchSettings
from lts_ray.search.backbone_search import ARCHITECTURES, BackboneResults, backbone_job
from lts_ray.search.read_search import read_search
from lts_ray.search.search_log import LOG
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces import bert_space as bert
from lts_ray.spaces import t5_space as t5
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.limits import Limits
from lts_ray.target import Target
from lts_ray.training.found_architecture import found_architecture
from tests.search.fake_evaluator import latency_of

TARGETS = (Target(name="here", local=True, sequence_length=48),)
SPACES = pytest.mark.parametrize("space", [bert.SPACE, t5.SPACE], ids=lambda each: str(each.name))


def measured(architecture: Architecture, space: BackboneSpace) -> Measurement:
    """A pass takes all stacks' parameters, a step the decoder's; an encoder has no step."""
    counts = space.stack_params(architecture)
    own = counts.get("decoder_params")
    return Measurement(
        prefill=latency_of("prefill", sum(counts.values()) / 1e5),
        decode=None if own is None else latency_of("decode", 1 + own / 1e6),
        peak_memory_bytes=4 * space.count_total_params(architecture, vocab_size=space.vocab_size),
    )


def search(
    space: BackboneSpace, folder: Path, *, algorithm: AlgorithmName = "lts", evaluations: int = 20
) -> SearchSession[Any]:
    settings = SearchSettings(
        evaluations=evaluations,
        quality="decoder_params",
        algorithm=algorithm,
        predicted=100,
        limits=Limits(max_decoder_params=60_000_000),
    )
    job = backbone_job(space=space, targets=TARGETS, settings=settings)
    session = SearchSession(job.plan, folder, resume=False)
    assert job.plan.exact_quality is not None
    while (candidate := session.ask()) is not None:
        found = Evaluation(loss=job.plan.exact_quality(candidate), measurements={"here": measured(candidate, space)})
        session.record(candidate, found)
    job.results.write(session, folder)
    return session


@SPACES
@pytest.mark.parametrize(("algorithm", "evaluations"), [("lts", 20), ("predicted", 40)])
def test_results_have_the_parameters_of_each_stack_and_the_costs_there_are(
    space: BackboneSpace, algorithm: AlgorithmName, evaluations: int, tmp_path: Path
) -> None:
    session = search(space, tmp_path, algorithm=algorithm, evaluations=evaluations)
    assert len(session.evaluated) == evaluations
    points = read_json(tmp_path / ARCHITECTURES, what="architectures")["points"]
    assert points
    for each in points:
        architecture = space.from_json(each["architecture"])
        counts = space.stack_params(architecture)
        assert {key: value for key, value in each.items() if key in ("encoder_params", "decoder_params")} == counts
        assert sum(counts.values()) <= 60_000_000
        assert "loss" not in each  # nothing was trained
        cost = each["costs"]["here"]
        assert (cost["decode_ms"] is None) == (space is bert.SPACE)
    reopened, results = read_search(tmp_path, model_dir=tmp_path)
    assert reopened.outcomes == session.outcomes
    results.write(reopened, tmp_path / "again")
    assert read_json(tmp_path / "again" / ARCHITECTURES, what="architectures")["points"] == points


def test_the_latency_of_encoders_is_that_of_their_pass(tmp_path: Path) -> None:
    """Decode is what a search takes where nobody chooses; here there is none to take."""
    session = search(bert.SPACE, tmp_path)
    assert session.plan.settings.objective_names == ("loss", "prefill_ms", "memory_mb")
    for candidate, (_, latency_ms, _) in session.vectors("here").items():
        assert latency_ms == session.evaluated[candidate].measurements["here"].prefill.median_ms
    both = search(t5.SPACE, tmp_path / "t5")
    assert both.plan.settings.objective_names == ("loss", "decode_ms", "memory_mb")


def test_two_latencies_of_encoders_are_refused() -> None:
    settings = SearchSettings(quality="decoder_params", latency="both")
    with pytest.raises(LtsRayError, match=r"bert are encoders and have no decode step.*--latency prefill"):
        backbone_job(space=bert.SPACE, targets=TARGETS, settings=settings)


def test_a_sequence_that_bert_has_no_positions_for_is_refused_before_anything_is_measured() -> None:
    settings = SearchSettings(quality="decoder_params")
    long = [Target(name="long", local=True, sequence_length=length) for length in (512, 513)]
    backbone_job(space=bert.SPACE, targets=(long[0],), settings=settings)
    with pytest.raises(LtsRayError, match="BERT has 512 positions; a sequence of 513 tokens is too long"):
        backbone_job(space=bert.SPACE, targets=tuple(long), settings=settings)


def headings(page: str) -> Sequence[str]:
    return [each.split(">", 1)[1] for each in page.split("<th")[1:]]


def test_the_report_of_encoders_has_no_decode_column_and_says_why(tmp_path: Path) -> None:
    pages = {}
    for space in (bert.SPACE, t5.SPACE):
        session = search(space, tmp_path / space.name)
        page = render(report_data(session, BackboneResults(space=space)))
        pages[space.name] = page[page.index("<main>") :]
    for name, has_steps in (("bert", False), ("t5", True)):
        found = headings(pages[name])
        assert any(each.startswith("decode") for each in found) == has_steps
        assert ("An encoder has no decode step." in pages[name]) != has_steps
        assert ("decode latency, ms per token" in pages[name]) == has_steps
        assert any(each.startswith("encoder layers") for each in found) == has_steps
    assert "encoder parameters, millions" in pages["bert"]
    assert "encoder and decoder parameters, millions" in pages["t5"]


@SPACES
def test_what_was_found_is_refused_by_training_in_one_line(space: BackboneSpace, tmp_path: Path) -> None:
    search(space, tmp_path)
    name = read_json(tmp_path / ARCHITECTURES, what="architectures")["points"][0]["name"]
    with pytest.raises(LtsRayError, match=f"the backbone {space.name} is searched only") as caught:
        found_architecture(tmp_path, name, vocab_size=300, context_length=16)
    assert "\n" not in str(caught.value)


def test_a_model_of_all_costs_predicts_two_stacks_and_refuses_encoders() -> None:
    """The costs are sums that the model has terms for, so that it is nearly exact."""
    space = t5.SPACE
    samples = [(each, measured(each, space).cost) for each in design(space, rng=np.random.default_rng(0))]
    model = fit_costs(samples, space)
    rng = np.random.default_rng(1)
    unseen = [space.sample(rng) for _ in range(20)]
    found = model.predict(unseen)
    for name in ("prefill_ms", "decode_ms", "peak_memory_mb"):
        truth = np.array([getattr(measured(each, space).cost, name) for each in unseen])
        assert np.abs(getattr(found, name).mean / truth - 1).mean() < 0.03
    with pytest.raises(LtsRayError, match="needs decode steps"):
        fit_costs([(bert.SPACE.sample(rng), samples[0][1])] * 20, bert.SPACE)


def test_few_shot_features_see_both_stacks() -> None:
    first = t5.HOMOGENEOUS.seeds()[0]
    assert first.encoder is not None
    deeper = replace(first, encoder=replace(first.encoder, n_head=(2,) * 4, d_inner=first.encoder.d_inner * 2))
    assert few_shot.features(first) != few_shot.features(deeper)


@SPACES
def test_parameters_are_called_parameters_wherever_they_are_written(space: BackboneSpace, tmp_path: Path) -> None:
    """And read where an older version wrote them with a minus, as `loss`."""
    session = search(space, tmp_path)
    header, *records = read_json_lines(tmp_path / LOG, what="log")
    assert records
    for record in records:
        assert "loss" not in record
        assert record["decoder_params"] == space.decoder_params(space.from_json(record["candidate"]))
        record["loss"] = -float(record.pop("decoder_params"))
    (tmp_path / LOG).write_text("".join(json.dumps(each) + "\n" for each in (header, *records)))
    reopened, results = read_search(tmp_path, model_dir=tmp_path)
    assert reopened.outcomes == session.outcomes
    results.write(reopened, tmp_path / "again")
    again, before = (read_json(folder / ARCHITECTURES, what="a") for folder in (tmp_path / "again", tmp_path))
    assert again == before


@pytest.mark.parametrize(
    ("quality", "key", "value"),
    [("validation_loss", "loss", 3.5), ("few_shot", "predicted_loss", 3.5), ("decoder_params", "decoder_params", -7.0)],
)
def test_what_stands_for_quality_is_written_under_its_own_name(quality: Quality, key: str, value: float) -> None:
    found = Evaluation(loss=value, measurements={})
    written = found.to_json(quality)
    assert written == {key: abs(value), "measurements": {}}
    assert Evaluation.from_json(json.loads(json.dumps(written))) == found
