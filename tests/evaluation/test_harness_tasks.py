"""Which tasks are the paper's, and what `lts-ray evaluate --tasks` prints of any."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from datasets import Dataset
from lm_eval.tasks._index import TaskIndex
from lm_eval.utils import make_table

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.cli.evaluate import evaluate as verb
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness import TASKS as SHIPPED
from lts_ray.evaluation.harness.paper_tasks import BY_TASK, GROUPS, PAPER_TASKS
from lts_ray.evaluation.harness.task_run import load_tasks, task_manager
from lts_ray.evaluation.harness.task_score import TaskScore, averages, metric_of, table_rows, task_scores
from lts_ray.frontier import Frontier, FrontierPoint, write_frontier
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from tests.evaluation.conftest import TASKS, THEIRS

PAPER = (
    *(
        ("TriviaQA", 28.01),
        ("NaturalQuestions", 5.01),
        ("WebQuestions", 7.78),
        ("LAMBADA", 29.98),
        ("HellaSwag", 55.33),
    ),
    *(("StoryCloze", 75.79), ("WSC", 77.54), ("WinoGrande", 59.59), ("Winograd", 78.75), ("SQuAD v2", 42.59)),
    *(("RACE-H", 37.28), ("RACE-M", 51.67), ("PIQA", 71.11), ("ARC-C", 35.41), ("ARC-E", 64.86), ("OpenBookQA", 49.4)),
    *(("BoolQ", 57.22), ("COPA", 81), ("RTE", 52.35), ("WiC", 47.49), ("MultiRC", 53.77), ("ReCoRD", 75.32)),
    *(("CB", 44.64), ("ANLI-R1", 31.5), ("ANLI-R2", 30.8), ("ANLI-R3", 31.92)),
)
"""MatLM-XL of 2.6B, table 14."""


def known_to_lm_eval(names: set[str]) -> set[str]:
    """By its own index, of the folders whose files say such a name: all of them take a while. No network."""
    said = re.compile(r"^task: [\"']?(\w+)", re.MULTILINE)
    files = THEIRS.rglob("*.yaml")
    folders = {each.parent for each in files if names & set(said.findall(each.read_text(encoding="utf-8")))}
    return names & TaskIndex.build(sorted(folders)).keys()


def test_the_groups_are_the_papers_tasks_and_all_are_known_to_lm_eval() -> None:
    """26 tasks, five of them GEN; one is ours, and one nobody's."""
    assert {each.name for each in PAPER_TASKS} == {name for name, _ in PAPER}
    assert [each.kind for each in PAPER_TASKS].count("GEN") == 5
    assert [each.name for each in PAPER_TASKS if each.task is None] == ["RACE-M"]
    shipped = TaskIndex.build([SHIPPED])
    for group, kind in GROUPS.items():
        tasks = [each.task for each in PAPER_TASKS if each.kind == kind and each.task is not None]
        assert shipped[group].cfg["task"] == tasks
    ours = {"matformer_multirc"}
    assert ours < shipped.keys()
    assert known_to_lm_eval(set(BY_TASK)) == set(BY_TASK) - ours


def test_averages_of_the_papers_numbers_are_the_papers() -> None:
    """Table 14, which rounds; its GEN is 22.674."""
    kinds = {each.name: each.kind for each in PAPER_TASKS}
    scores = [
        TaskScore(model="XL", task=name, kind=kinds[name], shots=1, metric="acc", value=value / 100, documents=1)
        for name, value in PAPER
    ]
    perplexity = TaskScore(model="XL", task="text", kind=None, shots=0, metric="perplexity", value=30, documents=1)
    found = averages([*scores, perplexity])
    assert [(each.kind, each.shots, each.documents) for each in found] == [
        (None, 1, 26),
        ("GEN", 1, 5),
        ("RANK", 1, 21),
    ]
    assert [100 * each.value for each in found] == pytest.approx([49.08, 22.68, 55.37], abs=0.01)
    assert [row["task"] for row in table_rows(found)] == ["average", "average of GEN", "average of RANK"]


def test_a_task_is_known_by_the_papers_metric_else_by_the_first_share_else_by_what_it_has() -> None:
    assert metric_of("record", ["f1", "em"]) == "em"
    assert metric_of("mine", ["f1", "em"]) == "em"
    assert metric_of("boolq", ["acc"]) == "acc"
    assert metric_of("mine", ["bits_per_byte", "word_perplexity"]) == "word_perplexity"
    assert metric_of("mine", ["bleu"]) == "bleu"


def test_squads_shares_are_of_one_and_the_first_of_several_filters_counts() -> None:
    results = {
        "results": {
            "squadv2": {"alias": "squadv2", "sample_len": 3, "exact,none": 12.5, "exact_stderr,none": "N/A"},
            "mine": {"exact_match,strict": 0.25, "exact_match,flexible": 0.5},
            "a group": {"acc,none": 0.5},
        },
        "configs": {"squadv2": {"output_type": "generate_until"}, "mine": {"output_type": "generate_until"}},
        "n-shot": {"squadv2": 1, "mine": 0},
        "n-samples": {name: {"original": 9, "effective": 3} for name in ("squadv2", "mine")},
    }
    found = task_scores("S", results)
    assert [(each.task, each.metric, each.value, each.kind) for each in found] == [
        ("squadv2", "exact", 0.125, "GEN"),
        ("mine", "exact_match", 0.25, "GEN"),
    ]


def test_a_right_answer_of_multirc_is_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for its documents; label 1 means right."""
    docs = [{"paragraph": "It rained.", "question": "Why?", "answer": "Rain", "label": label} for label in (0, 1)]
    kept = Dataset.from_list(docs)
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: dict.fromkeys(("train", "validation"), kept))
    (task,) = load_tasks(task_manager(["matformer_multirc"], None), ["matformer_multirc"])
    assert [task.doc_to_choice(doc)[task.doc_to_target(doc)].split()[-1] for doc in docs] == ["no", "yes"]
    assert BY_TASK["matformer_multirc"].metric in task.aggregation()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_verb_prints_submodels_and_a_plain_checkpoint_zero_and_one_shot(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint beside them is S: it has S's numbers. A text has no shots, and is read once."""
    extract_checkpoint(model_dir, "S", tmp_path / "opt")
    tasks = "union_endings, union_passages"
    options: dict[str, Any] = {"tasks": tasks, "shots": [0, 1], "limit": 9, "include_path": TASKS}
    verb(model=model_dir, submodel=["S", "8,64,16"], beside=tmp_path / "opt", as_json=True, **options)
    rows = lines(capsys)
    assert [list(row) for row in rows] == [
        ["model", "widths", "decoder_params", "task", "kind", "shots", "metric", "value", "documents"]
    ] * len(rows)
    named = {(row["model"], row["task"], row["kind"], row["shots"]): row["value"] for row in rows}
    assert len(named) == len(rows) == 3 * (2 + 1 + 2 * 2)
    for (model, *rest), value in named.items():
        if model == "opt":
            assert value == pytest.approx(named["S", *rest], rel=1e-4)
    assert {row["documents"] for row in rows if row["task"] == "union_endings"} == {9}
    assert next(row["widths"] for row in rows if row["model"] == "8,64,16") == [8, 64, 16]

    verb(model=model_dir, submodel=["S"], **options)
    printed = capsys.readouterr()
    for each in ("union_endings", "acc_norm %", "word_perplexity", "average of RANK"):
        assert each in printed.out
    assert printed.err == ""  # nobody looks

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    verb(model=model_dir, submodel=["S", "M"], **options)
    assert "loading union_endings, union_passages\nS, 0-shot (1 of 4)\n" in (told := capsys.readouterr().err)
    assert "M, 1-shot (4 of 4)\n" in told


def test_a_frontiers_points_stand_among_the_granularities(
    model_dir: Path, tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By size; on a text as well."""
    checkpoint = load_checkpoint(model_dir)
    points = tuple(
        FrontierPoint(name=name, submodel=submodel, decoder_params=number, costs={}, fronts=())
        for number, (name, submodel) in enumerate(
            {
                "XL": checkpoint.model.config.universal,
                "0.46": checkpoint.model.config.submodel("8,64,16"),
            }.items()
        )
    )
    path = tmp_path / "frontier.json"
    frontier = Frontier(model_fingerprint=checkpoint.fingerprint, quality="decoder_params", targets={}, points=points)
    write_frontier(frontier, path)
    verb(model=model_dir, frontier=path, tasks="union_endings", limit=2, include_path=TASKS, as_json=True)
    expected = ["S", "M", "0.46", "L", "XL"]
    assert list(dict.fromkeys(row["model"] for row in lines(capsys))) == expected
    verb(model=model_dir, frontier=path, text=str(texts / "*.txt"), blocks=1, as_json=True)
    assert [row["submodel"] for row in lines(capsys)] == expected
    verb(model=model_dir, submodel=["0.46"], frontier=path, text=str(texts / "*.txt"), blocks=1, as_json=True)
    assert [row["widths"] for row in lines(capsys)] == [[8, 64, 16]]
    with pytest.raises(LtsRayError, match=r"unknown submodel '1.5'.*; or a point of the frontier: XL, 0.46"):
        verb(model=model_dir, submodel=["1.5"], frontier=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": [1]}, "--shots, --limit, --beside and --include-path are for --tasks"),
        ({"tasks": "union_endings", "text": "a.txt"}, "leave out --text, --blocks and --length"),
        ({"tasks": " ,"}, "--tasks is TASK,TASK; got ' ,'"),
        ({"tasks": "nothing"}, "knows no task, group or tag 'nothing'; .* ls tasks"),
        ({"tasks": "union_endings", "include_path": Path("no such folder")}, "no such folder is not a folder"),
        ({"tasks": "union_endings", "beside": Path("no such folder")}, "--beside no such folder is not a folder"),
        ({"tasks": "union_endings", "beside": TASKS}, "transformers cannot load --beside"),
        ({"tasks": "union_endings", "submodel": ["XXL"]}, "unknown submodel 'XXL'"),
    ],
    ids=["no tasks", "a text", "none", "unknown", "no folder", "no checkpoint", "no model", "no submodel"],
)
@pytest.mark.usefixtures("without_theirs")
def test_what_cannot_be_run_is_one_line(model_dir: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtsRayError, match=message) as refused:
        verb(**{"model": model_dir, **options})
    assert "\n" not in str(refused.value)


def test_without_the_harness_its_extra_is_named(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lts_ray.evaluation.harness.find_spec", lambda name: None)
    with pytest.raises(LtsRayError, match=r"pip install 'lts-ray\[tasks\]'"):
        verb(model=model_dir, tasks="piqa")


def write_task(folder: Path, name: str, dataset: str) -> None:
    task = {"task": name, "dataset_path": dataset, "output_type": "multiple_choice", "test_split": "test"}
    task |= {"doc_to_text": "{{text}}", "doc_to_choice": ["a", "b"], "doc_to_target": "answer"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


@pytest.mark.usefixtures("without_theirs")
def test_documents_that_cannot_be_fetched_are_one_line(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without network the command ends. Of a group that ships, one that its host does not give is left out."""
    for name in ("boolq", "storycloze_2016"):
        write_task(tmp_path, name, f"host/{name}")
    (tmp_path / "group.yaml").write_text("{group: matformer_rank, task: [boolq, storycloze_2016]}", encoding="utf-8")

    def fetch(path: str, **_: object) -> dict[str, Dataset]:
        if offline:
            raise ConnectionError(f"Couldn't reach '{path}' on the Hub\nand much more")
        if "story" in path:
            raise FileNotFoundError(f"{path} is given out by hand")
        return {"test": Dataset.from_list([{"text": "the", "answer": 1}] * 3)}

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    offline = True
    for tasks in ("boolq", "matformer_rank"):
        with pytest.raises(LtsRayError, match="task 'boolq' cannot be loaded: Couldn't reach 'host/boolq' on the Hub;"):
            verb(model=model_dir, submodel=["S"], tasks=tasks, include_path=tmp_path)
    offline = False
    verb(model=model_dir, submodel=["S"], tasks="matformer_rank", include_path=tmp_path, as_json=True)
    told = capsys.readouterr()
    assert told.err.startswith("lts-ray: left out: task 'storycloze_2016' cannot be loaded: host/storycloze_2016 is")
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["task"], row["documents"]) for row in rows] == [("boolq", 3), ("average", 1), ("average", 1)]
    with pytest.raises(LtsRayError, match="storycloze_2016"):
        verb(model=model_dir, submodel=["S"], tasks="storycloze_2016", include_path=tmp_path)


def test_lm_evals_own_files_are_read_only_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    build = TaskIndex.build

    def noted(paths: Sequence[Path], **options: Any) -> dict[str, Any]:
        read.extend(paths)
        return build([each for each in paths if each != THEIRS], **options)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(noted))
    task_manager(["union_endings", "matformer_multirc"], TASKS)
    assert read == [SHIPPED, TASKS]
    task_manager(["union_endings", "piqa"], TASKS)
    assert THEIRS in read


def test_lm_evals_table_has_its_headings() -> None:
    """What `lm_eval --model lts-ray` prints. An old pytablewriter makes A, B, C of them."""
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    if f"pytablewriter=={version('pytablewriter')}" not in pins:
        pytest.skip("another pytablewriter is installed than constraints.txt pins")
    results = {"boolq": {"alias": "boolq", "acc,none": 0.6789, "acc_stderr,none": 0.1234}}
    table = make_table({"results": results, "versions": {"boolq": 2.0}, "n-shot": {"boolq": 0}})
    headings, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines())
    assert headings == ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]
    assert row == ["boolq", "2", "none", "0", "acc", "", "0.6789", "±", "0.1234"]
