"""Texts are read whatever wrote them; what is written is whole or not there; what fails is one line."""

from __future__ import annotations

import codecs
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lts_ray import files
from lts_ray.errors import LtsRayError
from lts_ray.files import (
    append_json_line,
    check_output,
    new_folder,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    write_json,
)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "encoded",
    [
        "é\nb\n".encode(),
        codecs.BOM_UTF8 + "é\nb\n".encode(),
        "é\nb\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "é\r\nb\r\n".encode("utf-16-be"),
        codecs.BOM_UTF8 + "é\r\nb\r".encode(),
    ],
    ids=["plain", "utf-8 mark", "utf-16", "utf-16 from elsewhere", "ends of lines"],
)
def test_a_text_is_read_whatever_wrote_it(encoded: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(encoded)
    assert read_text(path, what="text") == "é\nb\n"


@pytest.mark.parametrize("read", [read_json, read_yaml], ids=["json", "yaml"])
def test_a_byte_order_mark_is_no_part_of_what_is_read(read: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": 1}\r\n')
    assert read(path, what="file") == {"a": 1}


def bomb(levels: int) -> str:
    """Ten lines that say 10 ** levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


BAD_FILES: dict[str, bytes] = {
    "not UTF-8": b'{"a": 1}\n\xff\n',
    "half of UTF-16": b"\xff\xfe\x00\xd8",
    "binary": bytes(range(256)),
    "too deep": b"[" * 5_000 + b"]" * 5_000,
    "deep": b'{"a": ' * 200 + b"1" + b"}" * 200,
    "too many digits": b'{"a": ' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
@pytest.mark.parametrize("read", [read_json, read_yaml, read_json_lines], ids=["json", "yaml", "lines"])
def test_what_cannot_be_read_is_one_line_that_names_the_file(
    read: Callable[..., object], content: bytes, tmp_path: Path
) -> None:
    if read is read_json_lines and content is BAD_FILES["deep"]:
        pytest.skip("a log's records are read by their keys, however deep they are")
    path = tmp_path / "file"
    path.write_bytes(content + b"\n")
    with pytest.raises(LtsRayError, match=str(path)) as problem:
        read(path, what="thing")
    assert len(str(problem.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", [bomb(9), "a: &a [*a]", "day: 2026-13-45", "? [1]\n: 2"], ids=["bomb", "endless", "date", "key"]
)
def test_yaml_that_says_too_much_or_nothing_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError, match="cannot be read as YAML"):
        read_yaml(path, what="configuration")


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"[1]", "list"), (b"null", "NoneType"), (b"{]", "not JSON"), (b'{"a": "\xff"}', "is not utf-8")],
)
def test_a_damaged_line_is_named(line: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(LtsRayError, match=f"line 2.*{problem}"):
        read_json_lines(path, what="log")


@pytest.mark.parametrize("short", [False, True], ids=["at once", "in the middle of a line"])
def test_a_record_that_does_not_fit_leaves_the_log_as_it_was(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"a": 1})
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full_disk)  # by then the line is there
        with pytest.raises(LtsRayError, match=r"log\.jsonl cannot be written: No space left on device"):
            append_json_line(path, {"a": 2} if short else {})
    assert path.read_bytes() == before
    append_json_line(path, {"a": 3})
    assert read_json_lines(path, what="log") == [{"a": 1}, {"a": 3}]


def test_a_file_that_does_not_fit_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full_disk)
        with pytest.raises(LtsRayError, match=r"a\.json cannot be written: No space left on device"):
            write_json(tmp_path / "a.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "empty"])
def test_a_folder_that_cannot_be_filled_is_as_before(is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    if is_there:
        folder.mkdir()

    def fill() -> None:
        with new_folder(folder):
            write_json(folder / "a.json", {})
            raise LtsRayError("full")

    with pytest.raises(LtsRayError, match="full"):
        fill()
    assert folder.exists() == is_there
    assert not is_there or list(folder.iterdir()) == []


def test_an_output_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(LtsRayError, match="file is a file, not a folder"):
        check_output(tmp_path / "file" / "under")
    with pytest.raises(LtsRayError, match="/proc/lts-ray cannot be written"):
        check_output(Path("/proc/lts-ray"))
    with pytest.raises(LtsRayError, match="File name too long"):
        check_output(tmp_path / ("x" * 300))


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(LtsRayError, match="text /dev/zero cannot be read: it is a device"):
        read_text(Path("/dev/zero"), what="text")
    assert read_text(Path("/dev/null"), what="text") == ""


def test_json_of_the_log_is_written_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"text": "é\ud800\n"})
    assert json.loads(path.read_bytes()) == {"text": "é\ud800\n"}
