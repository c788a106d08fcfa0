"""What a person sees while a search runs: evaluations, fronts, hypervolume, time left, and every node's use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lts_ray.console import WIDE, PlainProgress, error_console, first_fitting
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.pinned_worker import PoolStatus
from lts_ray.search.search_session import SearchSession

LOOK_S = 2.0


class SearchProgress:
    def __init__(self, session: SearchSession[Any], progress: Progress, plain: PlainProgress | None = None) -> None:
        """plain: where no terminal is."""
        self._session, self._progress, self._plain = session, progress, plain
        self._task = progress.add_task("search", total=session.plan.settings.evaluations, state="")
        self._nodes: dict[tuple[str, str], TaskID] = {}
        self._said: tuple[str, ...] = ()
        self.say("starting Ray")
        self.show()

    def say(self, state: str) -> None:
        self._progress.update(self._task, state=state)
        if self._plain is not None:
            self._plain.show(state, f"{self._done:,} of {self._session.plan.settings.evaluations:,} evaluated")

    @property
    def _done(self) -> int:
        return len(self._session.outcomes)

    @property
    def _is_wide(self) -> bool:
        return self._progress.console.width >= WIDE

    def show(self) -> None:
        session = self._session
        if not session.outcomes:
            return
        targets = [target.name for target in session.plan.targets]
        front = "front " + "/".join(str(len(session.front(target))) for target in targets)
        volumes = "hypervolume " + "/".join(f"{session.hypervolume(target):.3f}" for target in targets)
        failed = sum(isinstance(outcome, Failed) for outcome in session.outcomes.values())
        end = f" · {failed} failed" if failed else ""
        total = session.plan.settings.evaluations
        room = self._progress.console.width - (60 if self._is_wide else 22 + 2 * len(str(total)))
        state = first_fitting([f"{front} · {volumes}{end}", f"{front}{end}", front], room)
        self._progress.update(self._task, completed=self._done, state=state)
        if self._plain is not None:
            self._plain.show("evaluating", f"{self._done:,} of {total:,} evaluated · {front} · {volumes}{end}")

    def show_nodes(self, status: PoolStatus) -> None:
        """One line per worker, and each message once when it comes up."""
        for worker in status.workers:
            key = (worker.target, worker.node)
            if key not in self._nodes:
                name = f"  {worker.target} on {worker.node}" if self._is_wide else f"  {worker.target}"
                self._nodes[key] = self._progress.add_task(name, total=1.0, state="")
            done, busy = f"{worker.measured} done", f"busy {100 * worker.utilisation:.0f} %"
            room = self._progress.console.width - (60 if self._is_wide else 22)
            state = first_fitting([f"{worker.state} · {done} · {busy}", f"{worker.state} · {done}", done], room)
            self._progress.update(self._nodes[key], completed=worker.utilisation, state=state)
        for message in status.messages:
            if message not in self._said:
                self._progress.console.print(message, highlight=False, soft_wrap=True)
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
    """Goes to standard error: standard output is for what a program may read. Plain lines where no terminal is."""
    console = error_console()
    plain = PlainProgress(console) if visible and not console.is_terminal else None
    columns = (
        TextColumn("[bold]{task.description}"),
        *((BarColumn(bar_width=24),) if console.width >= WIDE else ()),
        Evaluations(),
        TextColumn("{task.fields[state]}"),
        TimeLeft(compact=True),
    )
    hidden = not visible or plain is not None
    with Progress(*columns, console=console, disable=hidden) as progress, plain.running() if plain else nullcontext():
        yield SearchProgress(session, progress, plain)


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
