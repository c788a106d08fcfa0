"""The file that a search lives in: a header that says which search it is, then one durable line per event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, make_folder, read_json_lines, writing
from lts_ray.lock import is_vacant

SCHEMA = 2
LOG = "evaluations.jsonl"


def open_log(folder: Path, plan: Mapping[str, Any], *, resume: bool) -> list[dict[str, Any]]:
    """The records behind the header of `folder`'s log, which is begun unless it is there to `resume`.

    So one command with `resume` is right the first time and ever after, as a job that is tried again needs it.
    Raises LtsRayError for a folder in use without `resume` or without a search, or the log of another plan.
    """
    log = folder / LOG
    if not is_vacant(folder):
        if not resume:
            raise LtsRayError(f"{folder} is not empty: continue its search with --resume, or name another folder")
        if not log.exists():
            raise LtsRayError(f"{folder} is not empty and holds no search to resume: name another folder")
    records = read_json_lines(log, what="search log")
    header = {"kind": "search", "schema": SCHEMA, **plan}
    if records:
        check_same(records[0], json.loads(json.dumps(header)), log)
    else:
        make_folder(folder)
        log.unlink(missing_ok=True)  # a header that a kill cut off
        append_json_line(log, header)
    return records[1:]


def has_evaluations(folder: Path) -> bool:
    """Whether the search in it got further than its log's header."""
    return len(read_json_lines(folder / LOG, what="search log")) > 1


def cut_unfinished(log: Path) -> None:
    """Cut off a last line that a kill left unfinished, so that the next one starts a new line. For the only writer."""
    with writing(log):
        content = log.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with log.open("r+b") as file:
                file.truncate(len(whole))


def check_same(logged: Mapping[str, Any], wanted: Mapping[str, Any], log: Path) -> None:
    if logged.get("kind") != "search" or logged.get("schema") != SCHEMA:
        raise LtsRayError(f"{log} is not a search log of schema {SCHEMA}: name another folder")
    changed = [key for key in wanted if logged.get(key) != wanted[key]]
    for key in ("settings", "subject"):
        before, now = logged.get(key), wanted[key]
        if key in changed and isinstance(before, Mapping):
            changed.remove(key)
            changed += [
                f"{name} ({_short(before.get(name))} then, {_short(now[name])} now)"
                for name in now
                if before.get(name) != now[name]
            ]
    if changed:
        raise LtsRayError(
            f"{log.parent} holds a search with other {', '.join(changed)}: resume it as it was started, "
            "or name another folder"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
