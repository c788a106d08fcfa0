"""What the engine's thread computes for a step beside the kernels: CPU time, so that a busy machine matters little."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from threading import get_ident
from time import thread_time

from benchmarks.load.step_log import StepLog
from lts_ray.runtime.kernel_library import kernel_library
from serve.engine.observer import StepRecord


class StepPython(StepLog):
    """Of steps that only decode. The first step of a response reads its prompt, and is where counting begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self._cpu_ms: dict[int, list[float]] = defaultdict(list)
        self._since_s = 0.0
        self._kernels_s: dict[int, float] = defaultdict(float)  # by thread: the bare runtime may already run in another

    @property
    def median_ms(self) -> dict[int, float]:
        """By the number of rows."""
        return {rows: median(times) for rows, times in sorted(self._cpu_ms.items())}

    def stepped(self, record: StepRecord) -> None:
        super().stepped(record)
        kernels_s = self._kernels_s.pop(get_ident(), 0.0)
        if not record.prompt_tokens:
            self._cpu_ms[record.decoded].append(1e3 * (thread_time() - self._since_s - kernels_s))
        self._since_s = thread_time()

    @contextmanager
    def beside_kernels(self) -> Iterator[None]:
        """Meanwhile the time of the kernels' calls is taken, and taken off. Without kernels there is none to take."""
        library = kernel_library()
        if library is None:
            yield
            return
        call = library.lts_step

        def timed(*arguments: object) -> None:
            begin_s = thread_time()
            call(*arguments)
            self._kernels_s[get_ident()] += thread_time() - begin_s

        vars(library)["lts_step"] = timed
        try:
            yield
        finally:
            vars(library)["lts_step"] = call
