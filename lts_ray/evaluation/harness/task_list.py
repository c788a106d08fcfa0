"""The tasks that a person names, loaded with their documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness import TASKS
from lts_ray.evaluation.harness.paper_tasks import GROUPS


def task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Of the groups that ship, a folder of one's own, and lm_eval's tasks, whose files take seconds to read, if any of
    `names` needs them. Raises LtsRayError for a folder that is none."""
    if include_path is not None and not include_path.is_dir():
        raise LtsRayError(f"--include-path {include_path} is not a folder; give one with tasks in lm_eval's YAML")
    folders = [TASKS, *([] if include_path is None else [include_path])]
    ours = TaskManager(include_path=folders, include_defaults=False)
    return ours if set(names) <= set(ours.all_subtasks) else TaskManager(include_path=folders)


def check_names(manager: TaskManager, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        raise LtsRayError(
            f"lm_eval knows no task, group or tag {', '.join(map(repr, unknown))}; "
            "`python -m lts_ray.evaluation.harness ls tasks` lists them"
        )


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
