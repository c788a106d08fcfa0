"""What becomes of the files that lts-ray reads, by accident or on purpose: no damage ends in a traceback or a hang.

Small files of every kind are made, damaged at random, and given to the verbs that read them, in this process, through
the command line's own entry; what is expensive is stopped once everything is read. Each is to end in exit code 0, or in
2 with one line. A file that leads to anything else is kept, with what it led to.
"""

from __future__ import annotations

import io
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn
from unittest.mock import patch

import numpy as np
import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.file_kinds import KINDS, SERVE, Reading, make_files
from benchmarks.common.mutation import mutated
from benchmarks.common.turns import Progress
from lts_ray.cli.main import main
from lts_ray.cli.options import Output, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import make_folder, read_yaml, write_text

LIMIT_S = 10.0
"""Of the processors: what else runs on the machine makes no hang."""
STOPPED = (  # where everything is read, and what is left is work
    "lts_ray.training.ray_trainer.prepare_text",
    "lts_ray.search.on_ray.search_run.connected",
    "lts_ray.elasticize.elastic_run._reordered",
    "lts_ray.vision.vision_run.train",
    "lts_ray.measurement.measurement.measure_submodels",
)
A_FOLDER = 0.01
"""How often a folder stands in a file's place."""


class HangError(BaseException):
    """Not an Exception, so that nothing takes it for one of its own."""


@dataclass
class Outcomes:
    """Of one kind's files."""

    read: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz_files(
    output: Output = Path("runs/fuzz_files"),
    files: Annotated[int, typer.Option(min=1, help="Damaged files of each kind.")] = 2_000,
    kinds: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(KINDS),
    memory_gb: Annotated[float, typer.Option(min=0.5, max=1e6, help="What reading may take at most.")] = 4.0,
    seed: Seed = 0,
) -> None:
    """Give damaged files to every verb that reads them; exit code 1 where one ends badly."""
    chosen = names_of(kinds)
    unknown = ", ".join(sorted(set(chosen) - KINDS.keys()))
    if unknown:
        raise LtsRayError(f"unknown kinds of file {unknown}; known: {', '.join(KINDS)}")
    outcomes = {}
    with tempfile.TemporaryDirectory(prefix="lts-ray-fuzz-") as folder, reading_only(memory_gb):
        make_files(Path(folder), np.random.default_rng(0))
        for kind in chosen:
            with shown_progress(kind) as tell:
                rng = np.random.default_rng([seed, *kind.encode()])
                outcomes[kind] = damage_kind(KINDS[kind], Path(folder), files, rng, kept=output / kind, tell=tell)
    rows = [
        {
            "kind": kind,
            "files": files,
            "read": found.read,
            "refused in one line": found.refused,
            "violations": len(found.violations),
            "slowest, s": found.slowest_s,
        }
        for kind, found in outcomes.items()
    ]
    print_rows(rows, as_json=False)
    bad = [violation for found in outcomes.values() for violation in found.violations]
    for violation in sorted(set(bad)):
        print(f"{bad.count(violation)} × {violation}")
    if bad:
        print(f"The files are in {output}")
        raise typer.Exit(1)


def damage_kind(
    readings: tuple[Reading, ...],
    folder: Path,
    files: int,
    rng: np.random.Generator,
    *,
    kept: Path,
    tell: Progress = lambda done, total: None,
) -> Outcomes:
    """folder: of `make_files`, which is whole again afterwards. kept: where offending files go."""
    found, whole = Outcomes(), _contents(folder)
    for command in {command: None for reading in readings for command in reading.commands}:
        code, problem = run_command(command, folder, limit_s=0)  # also loads what is loaded once
        if code:
            raise LtsRayError(f"`{command}` refuses what is whole: {problem}")
        _restore(folder, whole)
    for number in range(files):
        reading = readings[int(rng.integers(len(readings)))]
        command = reading.commands[int(rng.integers(len(reading.commands)))]
        path = folder / reading.file
        damaged = None if rng.random() < A_FOLDER else mutated(whole[path], path.name, rng)
        path.unlink()
        if damaged is None:
            path.mkdir()
        else:
            path.write_bytes(damaged)
        started = time.perf_counter()
        code, problem = run_command(command, folder)
        found.slowest_s = max(found.slowest_s, time.perf_counter() - started)
        found.read += code == 0
        found.refused += code == 2 and problem is None
        if problem is not None:
            found.violations.append(problem.strip().splitlines()[-1][:200])
            make_folder(kept)
            if damaged is not None:
                (kept / f"{number}-{path.name}").write_bytes(damaged)
            write_text(kept / f"{number}.txt", f"{reading.file}: {command}\n\n{problem}\n")
        _restore(folder, whole)
        tell(number + 1, files)
    return found


def run_command(command: str, folder: Path, *, limit_s: float = LIMIT_S) -> tuple[int | None, str | None]:
    """Its exit code, and what is wrong with how it ended; IN and OUT in it are in `folder`.

    limit_s: 0: as long as it takes.
    """
    arguments = shlex.split(command.replace("IN/", f"{folder}/").replace("OUT", f"{folder}/out"))
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    try:
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            patch.object(sys, "argv", ["lts-ray", *arguments]),
            _in_time(limit_s),
        ):
            if arguments[0] == SERVE:
                _serve(Path(arguments[1]))
            else:
                main()
    except SystemExit as end:
        code = end.code or 0
    except (Exception, HangError):
        return None, traceback.format_exc()
    lines = [line for line in err.getvalue().splitlines() if line.startswith(("lts-ray: ", "error: "))]
    if code == 2 and len(lines) == 1:
        return code, None
    return code, None if code == 0 else f"{err.getvalue()}\nexit code {code} with {len(lines)} lines"


def _given(arguments: list[str]) -> Any:
    return patch.object(sys, "argv", ["lts-ray", *arguments])


def _serve(path: Path) -> NoReturn:
    """What Ray Serve does with a file's arguments; that it is no mapping is Ray's to say."""
    from serve.app import build

    try:
        arguments = read_yaml(path, what="configuration")
    except LtsRayError:
        raise SystemExit(0) from None
    if isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments):
        build(arguments)
    raise SystemExit(0)


@contextmanager
def reading_only(memory_gb: float) -> Iterator[None]:
    """Within it verbs stop when they have read everything, and take no more memory than so much above what is held."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + int(memory_gb * 1e9)
    with ExitStack() as stack:
        for name in STOPPED:
            stack.enter_context(patch(name, _stop))
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_AS, before)
        yield


def _stop(*_: object, **__: object) -> NoReturn:
    raise SystemExit(0)


@contextmanager
def _in_time(limit_s: float) -> Iterator[None]:
    def end(*_: object) -> NoReturn:
        raise HangError(f"hangs: more than {limit_s:g} s")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _restore(folder: Path, whole: dict[Path, bytes]) -> None:
    """Only what is another now."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in whole:
            path.unlink()
        elif path.is_dir() and path in whole:
            path.rmdir()
    for path, content in whole.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


if __name__ == "__main__":
    run_benchmark(fuzz_files)
