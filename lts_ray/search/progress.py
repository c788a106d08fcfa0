"""What a person sees while a search runs: one bar with evaluations, front size, hypervolume and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lts_ray.measurement.measure import Failed
from lts_ray.search.session import SearchSession


class SearchProgress:
    def __init__(self, session: SearchSession, progress: Progress) -> None:
        self._session, self._progress = session, progress
        self._task = progress.add_task("search", total=session.plan.settings.evaluations, state="starting Ray")
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


@contextmanager
def search_progress(session: SearchSession, *, visible: bool) -> Iterator[SearchProgress]:
    """The bar goes to standard error: standard output is for what a program may read."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        yield SearchProgress(session, progress)
