"""The tasks that a person names, on models, one after the other: what `lts-ray evaluate --tasks` prints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness import TASKS
from lts_ray.evaluation.harness.paper_tasks import GROUPS
from lts_ray.evaluation.harness.task_score import ROLLING, TaskScore, task_scores

SEED = 1234
"""Of the examples before a question, and of what a task draws: lm_eval's own."""
CHATTY = ("lm_eval", "datasets", "huggingface_hub", "transformers")
"""Loggers that tell what is not asked for, such as each try at a host that is not there."""


def evaluate_tasks(
    models: Mapping[str, LM],
    names: Sequence[str],
    *,
    manager: TaskManager,
    shots: Sequence[int] = (0,),
    limit: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    left_out: Callable[[str], None] = lambda line: None,
) -> Iterator[list[TaskScore]]:
    """The scores of each model at each number of shots, as soon as they are known. All models see the same examples.

    names: of tasks, groups or tags. shots: examples before a question; a task that takes none is run once.
    limit: documents of a task at most. progress: told what is done next. left_out: told of tasks of a group that cannot
    be had, as `load_tasks` says. Raises LtsRayError for tasks that are unknown or cannot be loaded.
    """
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        raise LtsRayError(
            f"lm_eval knows no task, group or tag {', '.join(map(repr, unknown))}; "
            "`python -m lts_ray.evaluation.harness ls tasks` lists them"
        )
    done: set[tuple[str, int]] = set()
    numbers = list(dict.fromkeys(shots))
    for round_, asked in enumerate(numbers):
        progress(f"loading {', '.join(names)}")
        with quiet():
            loaded = load_tasks(manager, names, left_out=left_out)
        set_shots(loaded, asked)
        tasks = [task for task in loaded if (task.task_name, task.config.num_fewshot) not in done]
        done |= {(task.task_name, task.config.num_fewshot) for task in tasks}
        for place, (name, model) in enumerate(models.items() if tasks else (), start=round_ * len(models) + 1):
            progress(f"{name}, {asked}-shot ({place} of {len(numbers) * len(models)})")
            with quiet():
                results = results_of(model, tasks, limit=limit)
            yield task_scores(name, results)


def task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Of the groups that ship, a folder of one's own, and lm_eval's tasks, whose files take seconds to read, if any of
    `names` needs them. Raises LtsRayError for a folder that is none."""
    if include_path is not None and not include_path.is_dir():
        raise LtsRayError(f"--include-path {include_path} is not a folder; give one with tasks in lm_eval's YAML")
    folders = [TASKS, *([] if include_path is None else [include_path])]
    ours = TaskManager(include_path=folders, include_defaults=False)
    return ours if set(names) <= set(ours.all_subtasks) else TaskManager(include_path=folders)


def load_tasks(
    manager: TaskManager, names: Sequence[str], *, left_out: Callable[[str], None] = lambda line: None
) -> list[Task]:
    """Each once, in the order of `names`, whose groups and tags it takes apart.

    Of the groups that ship, a task whose documents cannot be had is left out, and `left_out` is told: one of them is
    not given out without registration. Raises LtsRayError for others, for a missing network, and for no task at all.
    """
    tasks: dict[str, Task] = {}
    lost: LtsRayError | None = None
    for name in names:
        for member in _members(manager, name):
            try:
                loaded = manager.load([member])["tasks"]
                tasks |= {key: task for key, task in loaded.items() if key not in tasks}
            except Exception as error:  # a task's own code may run here, and reads what others host
                lost = LtsRayError(f"task {member!r} cannot be loaded: {_reason(error)}")
                if name not in GROUPS or isinstance(error, ConnectionError):
                    raise lost from None
                left_out(f"left out: {lost}")
    if lost is not None and not tasks:
        raise lost
    return list(tasks.values())


def _members(manager: TaskManager, name: str) -> list[str]:
    """Of a group that ships, its tasks; lm_eval takes other groups apart by itself."""
    return list(manager.task_index[name].cfg["task"]) if name in GROUPS else [name]


def _reason(error: Exception) -> str:
    first = str(error).strip().split("\n")[0] or type(error).__name__
    hint = "; documents are fetched once, with network, and kept in HF_HOME" if isinstance(error, OSError) else ""
    return first.rstrip(".") + hint


def set_shots(tasks: Sequence[Task], asked: int) -> None:
    """Whole texts have no question to put examples before, and a task may hold to none; these stay without."""
    for task in tasks:
        takes_none = task.config.num_fewshot == 0 or task.OUTPUT_TYPE == ROLLING
        task.set_config(key="num_fewshot", value=0 if takes_none else asked)


def results_of(
    model: LM, tasks: Sequence[Task], *, limit: int | None = None, log_samples: bool = False
) -> Mapping[str, Any]:
    """As lm_eval's `simple_evaluate` gives them, which takes seconds each time to describe the machine."""
    for task in tasks:
        task.set_fewshot_seed(seed=SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        results: Mapping[str, Any] = evaluate(
            lm=model,
            task_dict={"tasks": {task.task_name: task for task in tasks}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=log_samples,
        )
    return results


@contextmanager
def quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
