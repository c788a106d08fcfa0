"""Recorded requests as a load: both formats, whole or in part, and what is no such file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.recorded_trace import RecordedTrace, read_recorded
from tests.serve.traffic.test_load_requests import NEED

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ZONED = ("2024-05-12 00:00:00+00:00,10,4", "2024-05-12 00:00:00.250000+00:00,20,8", "2024-05-12 00:00:02+00:00,30,1")
TIMES, LENGTHS = [0, 250, 2000], [[10, 4], [20, 8], [30, 1]]


def written(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes(end.join(lines).encode(encoding))
    return path


def mooncake(at_ms: object, prompt: object, output: object, **more: object) -> str:
    return json.dumps({"timestamp": at_ms, "input_length": prompt, "output_length": output, **more})


MOONCAKE = (mooncake(3000, 10, 4, hash_ids=[0, 1]), mooncake(3250.0, 20, 8, hash_ids=[0]), mooncake(5000, 30, 1))


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        ((HEADER, *ZONED), {}),
        ((HEADER, *ZONED, ""), {"end": "\r\n"}),
        ((HEADER, *ZONED), {"encoding": "utf-8-sig"}),
        ((HEADER, *(line.replace("+00:00", "") for line in ZONED)), {}),
        ((HEADER, *(line.replace("+00:00", "+02:00").replace(" ", "T") for line in ZONED)), {}),
        ((HEADER, "2023-11-16 18:17:03.9799600,10,4", "2023-11-16 18:17:04.2299600,20,8",
          "2023-11-16 18:17:05.9799600,30,1"), {}),
        (("NumImages,timestamp,GeneratedTokens,ContextTokens", *(
            "0,{0},{2},{1}".format(*line.split(",")) for line in ZONED)), {}),
        (MOONCAKE, {}),
        (("", *MOONCAKE, "", ""), {"end": "\r\n"}),
        (MOONCAKE, {"encoding": "utf-8-sig"}),
    ],
    ids=["2024", "crlf", "bom", "no zone", "iso", "2023", "2025", "mooncake", "mooncake crlf", "mooncake bom"],
)  # fmt: skip
def test_azures_and_mooncakes_files_are_told_apart(
    lines: Sequence[str], how: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")  # what names no zone means the same everywhere
    trace = read_recorded(written(tmp_path / "some.txt", *lines, **how))
    assert trace.name == "some"
    assert trace.times.tolist() == pytest.approx(TIMES)
    assert trace.lengths.tolist() == LENGTHS
    assert trace.rate == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "has no column timestamp: it is neither a CSV file of Azure's nor JSON Lines"),
        (["a,b", "1,2"], "has no column timestamp"),
        (["TIMESTAMP,ContextTokens", "2024-05-12 00:00:00,1"], "has no column generatedtokens"),
        ([HEADER], "is too short: it needs 2 requests that come one after the other"),
        ([HEADER, ZONED[0]], "is too short"),
        ([HEADER, ZONED[0], ZONED[0]], "is too short"),
        ([HEADER, ZONED[1], ZONED[0]], "line 3: the request comes before the one above it; sort them by time"),
        ([HEADER, "now,1,2"], "line 2.timestamp must be "),
        ([HEADER, "2024-05-12 00:00:00,-1,2"], "line 2.contexttokens must be at least 0; got '-1'"),
        ([HEADER, "2024-05-12 00:00:00,nan,2"], "line 2.contexttokens must be a whole number; got 'nan'"),
        ([HEADER, "2024-05-12 00:00:00,1.5,2"], "line 2.contexttokens must be a whole number; got '1.5'"),
        ([HEADER, "2024-05-12 00:00:00,1,1" + "0" * 30], "line 2.generatedtokens must be "),
        ([HEADER, "2024-05-12 00:00:00,1"], "line 2.generatedtokens must be "),
        ([HEADER, "a" * 200_000], "field larger than field limit"),
        (["[1, 2]"], "has no column"),
        (["{", "}"], "line 1: not JSON"),
        ([MOONCAKE[0], "[]"], "line 2 must be a mapping; got []"),
        ([MOONCAKE[0], '{"timestamp": 1, "input_length": 2}'], "line 2 needs output_length"),
        ([MOONCAKE[1], MOONCAKE[0]], "line 2: the request comes before the one above it"),
        ([mooncake(-1, 2, 3)], "line 1.timestamp must be at least 0; got -1"),
        ([mooncake("1", 2, 3)], "line 1.timestamp must be a number; got '1'"),
        ([mooncake(True, 2, 3)], "line 1.timestamp must be a number; got True"),
        ([mooncake(float("nan"), 2, 3)], "line 1: not JSON: NaN is not finite"),
        (['{"timestamp": 1e999, "input_length": 2, "output_length": 3}'], "line 1: not JSON"),
        ([mooncake(1, 2.5, 3)], "line 1.input_length must be a whole number; got 2.5"),
        ([mooncake(1, 2, None)], "line 1.output_length must be a whole number; got None"),
        ([mooncake(1, 2, 10**30)], "line 1.output_length must be "),
        ([mooncake(10**30, 2, 3)], "line 1.timestamp must be at most"),
        ([mooncake(1, 2, 3)], "is too short"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_trace_is_told_in_one_line(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError) as refused:
        read_recorded(written(tmp_path / "bad.csv", *lines))
    assert str(refused.value).startswith(f"trace {tmp_path / 'bad.csv'}")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=r"trace .*none\.csv does not exist"):
        read_recorded(tmp_path / "none.csv")
    (tmp_path / "bytes").write_bytes(b"\xff\xfa\x00")
    with pytest.raises(LtsRayError, match="cannot be read as UTF-8"):
        read_recorded(tmp_path / "bytes")


def growing(tmp_path: Path) -> RecordedTrace:
    """600 requests, one each second, whose prompts grow."""
    rows = [f"2023-11-16 18:{n // 60:02}:{n % 60:02}.1234567,{n + 1},{600 - n}" for n in range(600)]
    return read_recorded(written(tmp_path / "some.csv", HEADER, *rows))


def load(trace: RecordedTrace, *, rate: float, seconds: float, seed: int = 1) -> tuple[Arrival, ...]:
    how = {"need": NEED, "context_length": 60, "classes": BudgetClasses()}
    return trace.load(rate=rate, seconds=seconds, seed=seed, **how)  # type: ignore[arg-type]


def test_a_recorded_load_keeps_its_order_and_proportions_at_another_rate(tmp_path: Path) -> None:
    """A part of the record, squeezed into three seconds."""
    trace = growing(tmp_path)
    assert trace.times[-1] == pytest.approx(599_000)
    found = load(trace, rate=20.0, seconds=3.0)
    assert abs(len(found) - 60) <= 1
    assert np.diff([each.at_ms for each in found]) == pytest.approx(50, rel=0.01)
    prompts = [each.prompt_tokens for each in found]
    assert prompts == sorted(prompts)
    assert all(each.prompt_tokens <= 45 and each.prompt_tokens + each.output_tokens <= 60 for each in found)
    assert found == load(trace, rate=20.0, seconds=3.0)
    assert found != load(trace, rate=20.0, seconds=3.0, seed=2)
    with pytest.raises(LtsRayError, match=r"some has 600 requests, fewer than 3 s of 300\.0/s"):
        load(trace, rate=300.0, seconds=3.0)


@pytest.mark.parametrize("times", [1.0, 7.0])
def test_the_whole_record_has_all_requests_at_any_rate(times: float, tmp_path: Path) -> None:
    trace = growing(tmp_path)
    whole = load(trace, rate=times * trace.rate, seconds=600 / (times * trace.rate))
    assert [each.at_ms for each in whole] == pytest.approx((trace.times / times).tolist())
