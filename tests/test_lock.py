from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.lock import exclusive, is_vacant
from tests.conftest import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from lts_ray.lock import exclusive
with exclusive(Path(sys.argv[1]), "search", what="search"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_told_of_the_first_and_a_killed_first_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LtsRayError, match=rf"another search is writing to .*folder \(process {holder.pid} on "):  # noqa: SIM117
        with exclusive(folder, "search", what="search"):
            pass
    with exclusive(folder, "other", what="report"):  # another kind of command is not meant
        assert is_vacant(folder)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert [path.name for path in folder.iterdir()] == [".search.lock"]
    assert is_vacant(folder), "what a kill has left keeps nobody out"
    with exclusive(folder, "search", what="search"):
        (folder / "log").touch()
    assert [path.name for path in folder.iterdir()] == ["log"]
    assert not is_vacant(folder)


def test_a_folder_that_was_made_and_not_used_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="refused"), exclusive(tmp_path / "a" / "b", "run", what="run"):
        raise LtsRayError("refused")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine", "run", what="run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_many_that_wait_for_one_lock_hold_it_one_at_a_time(tmp_path: Path) -> None:
    """Each unlinks the file that the others wait for; a lock on a file without a name would let two in."""
    inside, seen = [], []

    def hold() -> None:
        for _ in range(5):
            with exclusive(tmp_path, "worker", what="run", wait_s=600):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LtsRayError, match="cannot be written to"), exclusive(tmp_path / "file", "run", what="run"):
        pass
