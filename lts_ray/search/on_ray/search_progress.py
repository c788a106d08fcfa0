"""What a person sees while a search runs: evaluations, fronts, hypervolume, time left, and every node's use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.pinned_worker import PoolStatus
from lts_ray.search.search_session import SearchSession

LOOK_S = 2.0


class SearchProgress:
    def __init__(self, session: SearchSession[Any], progress: Progress) -> None:
        self._session, self._progress = session, progress
        self._task = progress.add_task("search", total=session.plan.settings.evaluations, state="starting Ray")
        self._nodes: dict[tuple[str, str], TaskID] = {}
        self._said: tuple[str, ...] = ()
        self.show()

    def say(self, state: str) -> None:
        self._progress.update(self._task, state=state)

    def show(self) -> None:
        session = self._session
        if not session.outcomes:
            return
        targets = [target.name for target in session.plan.targets]
        fronts = "/".join(str(len(session.front(target))) for target in targets)
        volumes = "/".join(f"{session.hypervolume(target):.3f}" for target in targets)
        failed = sum(isinstance(outcome, Failed) for outcome in session.outcomes.values())
        state = f"front {fronts} · hypervolume {volumes}" + (f" · {failed} failed" if failed else "")
        self._progress.update(self._task, completed=len(session.outcomes), state=state)

    def show_nodes(self, status: PoolStatus) -> None:
        """One line per worker, and each message once when it comes up."""
        for worker in status.workers:
            key = (worker.target, worker.node)
            if key not in self._nodes:
                self._nodes[key] = self._progress.add_task(f"  {worker.target} on {worker.node}", total=1.0, state="")
            state = f"{worker.state} · {worker.measured} done · busy {100 * worker.utilisation:.0f} %"
            self._progress.update(self._nodes[key], completed=worker.utilisation, state=state)
        for message in status.messages:
            if message not in self._said:
                self._progress.console.print(message, highlight=False)
        self._said = status.messages


class Evaluations(MofNCompleteColumn):
    """m/n, where they are counts: a node's bar is its share of the time."""

    def render(self, task: Any) -> Any:
        return "" if isinstance(task.total, float) else super().render(task)


class TimeLeft(TimeRemainingColumn):
    def render(self, task: Any) -> Any:
        return "" if isinstance(task.total, float) else super().render(task)


@contextmanager
def search_progress(session: SearchSession[Any], *, visible: bool) -> Iterator[SearchProgress]:
    """The bars go to standard error: standard output is for what a program may read."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        Evaluations(),
        TextColumn("{task.fields[state]}"),
        TimeLeft(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        yield SearchProgress(session, progress)


@contextmanager
def watched(look: Callable[[], PoolStatus], show: Callable[[PoolStatus], None]) -> Iterator[None]:
    """Show what `look` returns every LOOK_S seconds, from a thread, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            try:
                status = look()
            except Exception:  # the pool went away: what ends the search is told where it is called
                return
            show(status)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
