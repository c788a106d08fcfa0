from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lts_ray.report.optuna_journal import write_study
from lts_ray.search.algorithms.search_settings import LatencyRegime
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.limits import Limits
from tests.report.searches import TARGETS, backbone_search, submodel_search


def reopened(session: SearchSession[Any], path: Path, target: str) -> optuna.Study:
    write_study(session, path)
    return optuna.load_study(study_name=target, storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("latency", ["prefill", "decode", "both"])
def test_a_study_has_every_trial_with_its_values_and_choices(
    tmp_path: Path, target: str, latency: LatencyRegime
) -> None:
    search = submodel_search(tmp_path / "search", evaluations=15, failing=5, latency=latency)
    study = reopened(search, tmp_path / "journal", target)
    vectors = search.vectors(target)
    assert len(study.trials) == len(search.outcomes) == 15
    for trial, candidate in zip(study.trials, search.outcomes, strict=True):
        assert trial.params == search.plan.space.to_genes(candidate)
        assert trial.user_attrs["candidate"] == list(candidate.widths)
        assert trial.user_attrs["decoder_params"] == search.plan.space.decoder_params(candidate)
        if candidate in vectors:
            assert tuple(trial.values) == vectors[candidate]


def test_what_failed_is_a_failed_trial_with_its_reason(tmp_path: Path) -> None:
    search = submodel_search(tmp_path / "search", evaluations=15, failing=5)
    failed = [each for each in reopened(search, tmp_path / "journal", "slow").trials if each.state == TrialState.FAIL]
    assert len(failed) == 3
    assert {each.user_attrs["failed"] for each in failed} == {"told to fail"}
    assert all(each.values is None for each in failed)


@pytest.mark.parametrize("target", TARGETS)
def test_the_best_trials_are_the_searchs_front(tmp_path: Path, target: str) -> None:
    search = submodel_search(tmp_path / "search", failing=10, evaluations=30)
    best = reopened(search, tmp_path / "journal", target).best_trials
    front = search.front(target)
    assert {tuple(each.user_attrs["candidate"]) for each in best} == {each.widths for each in front}
    assert len(best) == len(front)


def test_decoder_parameters_are_maximised_under_their_own_name(tmp_path: Path) -> None:
    search = backbone_search(tmp_path / "search", algorithm="random", evaluations=40)
    study = reopened(search, tmp_path / "journal", "fast")
    assert study.metric_names == ["decoder_params", "decode_ms", "memory_mb"]
    assert [each.name for each in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    params = [search.plan.space.decoder_params(each) for each in search.outcomes]
    assert [each.values[0] for each in study.trials] == params
    front = [each.to_json() for each in search.front("fast")]
    best = [each.user_attrs["candidate"] for each in study.best_trials]
    assert sorted(best, key=str) == sorted(front, key=str)


def test_what_breaks_a_limit_is_none_of_the_best(tmp_path: Path) -> None:
    limits = Limits(max_decoder_params=60_000_000, max_latency_ms=9.0, max_memory_mb=400.0)
    search = backbone_search(tmp_path / "search", algorithm="random", evaluations=40, limits=limits)
    study = reopened(search, tmp_path / "journal", "slow")
    values = [each.values for each in study.trials]
    assert any(latency > 9 or memory > 400 for _, latency, memory in values), "the limits are to bite"
    best = [each.user_attrs["candidate"] for each in study.best_trials]
    assert sorted(best, key=str) == sorted((each.to_json() for each in search.front("slow")), key=str)


def test_evenly_spaced_choices_keep_their_step(tmp_path: Path) -> None:
    search = backbone_search(tmp_path / "search", algorithm="random", evaluations=3)
    known = reopened(search, tmp_path / "journal", "slow").trials[0].distributions
    assert known["d_model"] == optuna.distributions.IntDistribution(128, 960, step=64)
    assert known["n_head_0"] == optuna.distributions.IntDistribution(2, 8)


def test_writing_again_replaces_the_journal_and_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search = submodel_search(tmp_path / "search", evaluations=15)
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_study(search, tmp_path / "optuna.journal")
        write_study(search, tmp_path / "optuna.journal")
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["optuna.journal", "search"]
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    assert optuna.get_all_study_names(storage) == list(TARGETS)
