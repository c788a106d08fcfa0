"""A lock on a folder that dies with its process: of two commands on one folder, the second is told of the first."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lts_ray.errors import LtsRayError, StoppedError

AGAIN_S = 0.2


@contextmanager
def exclusive(folder: Path, name: str, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock `name` of `folder`, which is made if there is none; nothing of either is left that was not used.

    what: the holder in the message, such as "search". Raises LtsRayError where another process, or another call in this
    one, holds it for longer than `wait_s`. Where the file system has no locks, there is none.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = folder / f".{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _opened(lock, what=what, wait_s=wait_s)
    except OSError as error:
        raise LtsRayError(f"{folder} cannot be written to: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: see _opened
        file.close()
        for place in made:
            if not place.is_dir() or any(place.iterdir()):
                break
            place.rmdir()


@contextmanager
def nothing_left(folder: Path, *, began: Callable[[], bool]) -> Iterator[None]:
    """Work that is refused before it `began` leaves in `folder` what was there: corrected, it can be given again."""
    before = set(folder.iterdir())
    try:
        yield
    except StoppedError:
        raise
    except LtsRayError:
        if not began():
            for path in set(folder.iterdir()) - before:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        raise


def is_vacant(folder: Path) -> bool:
    """Whether a new run may use the folder: it is not there, or has nothing in it but a lock."""
    return not folder.exists() or (folder.is_dir() and all(_is_lock(path) for path in folder.iterdir()))


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".lock"


def _opened(lock: Path, *, what: str, wait_s: float) -> IO[str]:
    """The lock's file, locked. One that was unlinked meanwhile is another's, who has let go: the next is tried."""
    deadline = time.monotonic() + wait_s
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or lock.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                continue
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            if time.monotonic() >= deadline:
                raise LtsRayError(
                    f"another {what} is writing to {lock.parent} ({holder}): wait for it or stop it, or name another"
                ) from None
            time.sleep(AGAIN_S)
            continue
        except OSError:  # a file system without locks
            return file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        return file
