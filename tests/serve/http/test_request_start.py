"""Where a proxy says when a request began, its budget counts from there; what cannot be is not believed."""

from __future__ import annotations

from time import time

import pytest
from fastapi.testclient import TestClient

from serve.http.request_start import passed_s, written


@pytest.mark.parametrize("header", ["t=1700000000.5", "1700000000.5", "t=1700000000500", "t=1700000000500000"])
def test_seconds_milliseconds_and_microseconds_are_told_apart(header: str) -> None:
    assert passed_s(header, 1_700_000_002.0) == pytest.approx(1.5)


@pytest.mark.parametrize("header", ["", "t=", "soon", "t=12", "-1700000000", "t=1700000003", "t=1600000000", "t=1e9"])
def test_what_cannot_be_counts_nothing(header: str) -> None:
    assert passed_s(header, 1_700_000_002.0) == 0


def test_what_is_written_is_read() -> None:
    assert passed_s(written(1_700_000_000.25).decode(), 1_700_000_001.0) == pytest.approx(0.75)


def test_what_passed_before_counts_as_waiting(client: TestClient) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 2, "latency_budget_ms": 20_000}
    for before_s, waited in ((30, True), (-30, False), (3000, False)):
        headers = {"X-Request-Start": f"t={time() - before_s:.6f}"}
        report = client.post("/v1/completions", json=body, headers=headers).json()["lts"]
        assert (report["time_ms"]["queue"] >= 30_000) == waited
        assert (report["measured_ms"]["ttft"] >= 30_000) == waited
        assert report["budget_met"] == (not waited)
