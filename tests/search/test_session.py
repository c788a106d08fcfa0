from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.frontier import Frontier
from lts_ray.precision import Precision
from lts_ray.search.algorithms.search_settings import AlgorithmName
from lts_ray.search.search_log import LOG
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_session import SearchSession, objectives
from lts_ray.spaces.limits import Limits
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.forked import forked
from tests.report.searches import ScatteredEvaluator
from tests.search.drive import drive
from tests.search.drive_to import drive_to
from tests.search.fake_evaluator import FakeEvaluator
from tests.search.helpers import CONFIG, RESULTS, TARGETS, plan, session


def evaluated(folder: Path) -> list[list[int]]:
    return [each["candidate"] for each in read_json_lines(folder / LOG, what="log") if each["kind"] == "evaluation"]


def test_a_killed_search_resumed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL three times at other moments; nothing is lost, nothing done twice, the frontier is the same."""
    whole = session(tmp_path / "whole")
    drive(whole, FakeEvaluator(TARGETS))
    killed = tmp_path / "killed"
    for lines in (6, 20, 31):
        driver = forked(drive_to, killed, lines)
        while len(read_json_lines(killed / LOG, what="log")) < lines and driver.is_alive():
            time.sleep(0.005)
        driver.kill()
        driver.join()
        assert driver.exitcode == -signal.SIGKILL
    assert len(evaluated(killed)) == 30
    resumed = session(killed, resume=True)
    drive(resumed, FakeEvaluator(TARGETS))
    assert len(evaluated(killed)) == 60
    assert sorted(evaluated(killed)) == sorted(evaluated(tmp_path / "whole"))
    assert RESULTS.frontier(resumed) == RESULTS.frontier(whole)


def test_fronts_are_of_pooled_latencies_and_the_log_and_the_algorithm_of_measured_ones(tmp_path: Path) -> None:
    """A log of an older version, that says nothing of what ran the steps, is replayed to the same."""
    pooling = replace(plan(), pooled_by=attrgetter("precision"))
    search = SearchSession(pooling, tmp_path, resume=False)
    alike = SearchSession(plan(), tmp_path / "measured", resume=False)
    for each in (search, alike):
        drive(each, ScatteredEvaluator(TARGETS))
    assert (tmp_path / LOG).read_bytes() == (tmp_path / "measured" / LOG).read_bytes()
    assert search.evaluated.keys() == alike.evaluated.keys()
    frontier = RESULTS.frontier(search)
    assert frontier.front("slow") != RESULTS.frontier(alike).front("slow")

    def error(session: SearchSession[Submodel]) -> float:
        """Against the costs that the scatter, 1 % in the middle, is of."""
        vectors, truth = session.vectors("slow"), FakeEvaluator(TARGETS)
        return sum(
            abs(vectors[each][1] - 1.01 * objectives(truth.evaluate(each), "slow", "decode")[1]) for each in vectors
        )

    assert error(search) < error(alike) / 2
    lines = (tmp_path / LOG).read_text(encoding="utf-8").replace(', "ran_in": "torch"', "")
    assert "ran_in" not in lines
    (tmp_path / LOG).write_text(lines, encoding="utf-8")
    assert RESULTS.frontier(SearchSession(pooling, tmp_path, resume=True)) == frontier
    (tmp_path / LOG).write_text(lines.replace('"peak_memory_bytes"', '"ran_in": "kernels", "peak_memory_bytes"', 1))
    mixed = SearchSession(pooling, tmp_path, resume=True).shortfalls
    assert [line.partition(" in torch")[0] for line in mixed] == ["slow: 1 were timed in our kernels and 59"]


def test_a_line_that_a_kill_cut_off_is_done_again(tmp_path: Path) -> None:
    whole = session(tmp_path)
    drive(whole, FakeEvaluator(TARGETS))
    content = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(content[:-40])
    resumed, evaluator = session(tmp_path, resume=True), FakeEvaluator(TARGETS)
    drive(resumed, evaluator)
    assert len(evaluator.calls) == 1
    assert (tmp_path / LOG).read_bytes() == content


def test_a_log_with_the_step_costs_of_older_searches_goes_on(tmp_path: Path) -> None:
    whole = session(tmp_path)
    drive(whole, FakeEvaluator(TARGETS))
    header, *records = (tmp_path / LOG).read_text().splitlines(keepends=True)
    old = '{"kind": "step_cost", "target": "slow", "step_cost": {"prefill": [1, 1, 1, 1, 1]}}\n'
    (tmp_path / LOG).write_text("".join([header, old, *records[:30]]))
    resumed = session(tmp_path, resume=True)
    drive(resumed, FakeEvaluator(TARGETS))
    assert RESULTS.frontier(resumed) == RESULTS.frontier(whole)


def test_a_complete_search_resumed_evaluates_nothing(tmp_path: Path) -> None:
    drive(session(tmp_path), FakeEvaluator(TARGETS))
    again, evaluator = session(tmp_path, resume=True), FakeEvaluator(TARGETS)
    assert again.is_finished
    drive(again, evaluator)
    assert not evaluator.calls


def test_a_folder_in_use_is_refused_without_resume(tmp_path: Path) -> None:
    session(tmp_path)
    with pytest.raises(LtsRayError, match=r"is not empty: continue its search with --resume, or name another folder"):
        session(tmp_path)


@pytest.mark.parametrize("made", ["none", "empty", "header cut off"])
def test_what_cannot_be_resumed_yet_begins_and_is_resumed_by_the_same_command(tmp_path: Path, made: str) -> None:
    """A job that is tried again has one command, wherever it was killed."""
    output = tmp_path / "out"
    if made != "none":
        output.mkdir()
    if made == "header cut off":
        (output / LOG).write_text('{"kind": "search", "sch')
    begun = session(output, resume=True)
    first = begun.ask()
    assert first is not None
    begun.record(first, FakeEvaluator(TARGETS).evaluate(first))
    assert list(session(output, resume=True).outcomes) == [first]


def test_a_folder_with_other_things_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(LtsRayError, match="is not empty and holds no search to resume: name another folder"):
        session(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_who_looks_on_leaves_the_line_alone_that_is_being_written(tmp_path: Path) -> None:
    """As `report` does, beside a search that runs."""
    writing = session(tmp_path)
    candidate = writing.ask()
    assert candidate is not None
    writing.record(candidate, FakeEvaluator(TARGETS).evaluate(candidate))
    content = (tmp_path / LOG).read_bytes()[:-40]
    (tmp_path / LOG).write_bytes(content)
    assert session(tmp_path, resume=True).outcomes == {}
    assert (tmp_path / LOG).read_bytes() == content


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(plan(), subject={**plan().subject, "model_fingerprint": "0" * 64}), "model_fingerprint"),
        (plan(seed=1), r"seed \(0 then, 1 now\)"),
        (plan(evaluations=61), r"evaluations \(60 then, 61 now\)"),
        (plan(precisions=("int8", "int4")), r"precisions \(None then, \['int8', 'int4'\] now\)"),
        (replace(plan(), targets=(Target(name="slow", local=True),)), "targets"),
        (replace(plan(), subject={**plan().subject, "validation_fingerprint": "1"}), "validation_fingerprint"),
        (replace(plan(), subject={**plan().subject, "rounding_fingerprint": "1"}), "rounding_fingerprint"),
    ],
    ids=["model", "seed", "evaluations", "precisions", "targets", "text", "rounding"],
)
def test_another_search_cannot_go_on_in_the_folder(other: SearchPlan[Submodel], named: str, tmp_path: Path) -> None:
    session(tmp_path)
    with pytest.raises(LtsRayError, match=named):
        SearchSession(other, tmp_path, resume=True)


def test_a_log_from_before_there_were_precisions_goes_on(tmp_path: Path) -> None:
    drive(session(tmp_path), FakeEvaluator(TARGETS))
    log = tmp_path / LOG
    old = log.read_text().replace(', "precisions": null', "")
    assert old != log.read_text()
    log.write_text(old)
    now = replace(plan(), subject={**plan().subject, "rounding_fingerprint": None})
    assert SearchSession(now, tmp_path, resume=True).is_finished


@pytest.mark.parametrize("algorithm", ["lts", "steady", "surrogate"])
def test_every_width_has_a_name_at_each_precision_and_every_granularity_is_there_at_all(
    algorithm: AlgorithmName, tmp_path: Path
) -> None:
    """Fewer bits cost less and lose more: the front has several precisions, and each candidate came once."""
    chosen = plan(algorithm=algorithm, evaluations=20, precisions=("float32", "int8", "int4"))
    search = SearchSession(chosen, tmp_path, resume=False)
    drive(search, FakeEvaluator(TARGETS))
    results = replace(RESULTS, precisions=("float32", "int8", "int4"))
    frontier = results.frontier(search)
    by_name = {point.name: point.submodel for point in frontier.points}
    assert len(by_name) == len(frontier.points)
    for name, submodel in CONFIG.trained.items():
        assert by_name[name] == submodel
        for precision in ("int8", "int4"):
            assert by_name[f"{name}@{precision}"] == replace(submodel, precision=precision)
    for name, submodel in by_name.items():
        assert name.partition("@")[2] == submodel.precision
    assert {point.submodel.precision for point in frontier.front("slow")} >= {"", "int4"}
    assert Frontier.from_json(json.loads(json.dumps(frontier.to_json()))) == frontier
    again = SearchSession(chosen, tmp_path, resume=True)
    assert results.frontier(again) == frontier


def test_latencies_are_pooled_with_those_of_their_own_precision(tmp_path: Path) -> None:
    """Each precision has its own price of a neuron, which no one sum over widths and bits has."""
    precisions: tuple[Precision, ...] = ("float32", "int8", "int4")
    chosen = replace(plan(precisions=precisions), pooled_by=attrgetter("precision"))
    pooling = SearchSession(chosen, tmp_path, resume=False)
    drive(pooling, ScatteredEvaluator(TARGETS))
    together = SearchSession(replace(chosen, pooled_by=lambda _: None), tmp_path, resume=True)
    apart = SearchSession(replace(chosen, pooled_by=None), tmp_path, resume=True)

    def error(session: SearchSession[Submodel]) -> float:
        vectors, truth = session.vectors("slow"), FakeEvaluator(TARGETS)
        exact = {each: 1.01 * objectives(truth.evaluate(each), "slow", "decode")[1] for each in vectors}
        return sum(abs(vectors[each][1] / exact[each] - 1) for each in vectors)

    assert error(pooling) < min(error(together), error(apart))


@pytest.mark.parametrize("settings", [None, [], 1], ids=str)
def test_a_header_that_was_damaged_is_another_search(settings: object, tmp_path: Path) -> None:
    """As JSON it is whole: a key is gone, or has another kind of value."""
    folder = tmp_path / "search"
    session(folder)
    log = folder / LOG
    header = json.loads(log.read_text())
    damaged = {"kind": "search", "schema": 2} if settings is None else header | {"settings": settings}
    log.write_text(f"{json.dumps(damaged)}\n")
    with pytest.raises(LtsRayError, match=r"holds a search with other .*settings"):
        session(folder, resume=True)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"kind": "evaluation", "candidate": "\xff"}', "line 2 is not utf-8"),
        (b"[1]", "line 2: not a JSON object"),
        (b'{"kind": "later"}', "line 2: this version knows no record of kind 'later'"),
        (b'{"candidate": [8, 8, 8, 8]}', "line 2: a record without 'kind'"),
        (b'{"kind": "evaluation", "candidate": [8, 8, 8, 8], "loss": 1}', "line 2: an evaluation is not usable"),
        (
            b'{"kind": "evaluation", "candidate": [8, 8, 8, 8], "loss": 1, "measurements": {}}',
            "line 2: measured on no target, not on the search's targets",
        ),
    ],
    ids=["byte", "no object", "kind", "no kind", "half", "no target"],
)
def test_a_damaged_line_of_the_log_is_one_line_that_names_it(line: bytes, problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    session(folder)
    with (folder / LOG).open("ab") as log:
        log.write(line + b"\n")
    with pytest.raises(LtsRayError, match=problem) as refused:
        session(folder, resume=True)
    assert len(str(refused.value).splitlines()) == 1


def test_a_log_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"kind": "search", "schema": 99}\n')
    with pytest.raises(LtsRayError, match="schema 2"):
        session(tmp_path, resume=True)


def test_the_frontier_has_the_fronts_and_the_granularities(tmp_path: Path) -> None:
    search = session(tmp_path)
    drive(search, FakeEvaluator(TARGETS))
    frontier = RESULTS.frontier(search)
    assert {point.name for point in frontier.points} >= {"S", "M", "L", "XL"}
    for target in TARGETS:
        assert {point.submodel for point in frontier.front(target)} == set(search.front(target))
    assert [point.loss for point in frontier.points] == sorted(point.loss for point in frontier.points)


def test_hypervolume_never_falls_once_the_granularities_are_in(tmp_path: Path) -> None:
    search, evaluator, seen = session(tmp_path), FakeEvaluator(TARGETS), []
    while (submodel := search.ask()) is not None:
        search.record(submodel, evaluator.evaluate(submodel))
        seen.append(search.hypervolume("slow"))
    assert seen[3:] == sorted(seen[3:])
    assert seen[-1] > seen[3] > 0


def test_failures_are_logged_and_kept_off_the_frontier(tmp_path: Path) -> None:
    search = session(tmp_path)
    drive(search, FakeEvaluator(TARGETS, failing={CONFIG.trained["M"]}))
    assert "M" not in {point.name for point in RESULTS.frontier(search).points}
    assert {"failed": "told to fail"}.items() <= next(
        each for each in read_json_lines(search.log, what="log") if "failed" in each
    ).items()


def test_a_space_that_ran_out_and_limits_that_nothing_keeps_are_told(tmp_path: Path) -> None:
    small = replace(plan(), space=MixNMatch(replace(CONFIG, widths=(64,))))
    limits = Limits(max_latency_ms=1e-6, max_memory_mb=1e9)
    strict = replace(small, settings=replace(small.settings, limits=limits))
    for name, chosen in (("small", small), ("strict", strict)):
        search = SearchSession(chosen, tmp_path / name, resume=False)
        drive(search, FakeEvaluator(TARGETS))
        ran_out, *unkept = search.shortfalls
        assert ran_out == f"the space has no more candidates to ask for: {len(search.outcomes)} of 60 evaluations"
        assert [line.partition(":")[0] for line in unkept] == (list(TARGETS) if name == "strict" else [])
        assert all(line.endswith("keeps max latency ms 1e-06, max memory mb 1,000,000,000.0") for line in unkept)
    whole = session(tmp_path / "whole")
    drive(whole, FakeEvaluator(TARGETS))
    assert whole.shortfalls == ()


def test_a_search_in_which_all_failed_says_why(tmp_path: Path) -> None:
    search = session(tmp_path, evaluations=4)
    drive(search, FakeEvaluator(TARGETS, failing=set(CONFIG.trained.values())))
    with pytest.raises(LtsRayError, match="every evaluation failed: told to fail"):
        RESULTS.frontier(search)
