from __future__ import annotations

import hmac
import logging
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from lts_ray.errors import LtsRayError
from serve.http.api import create_app
from serve.http.keys import Keys, line_of, make_key
from serve.http.service import Service

KEY = "lts-the-right-key"
OTHER = "lts-another-right-key"
BODY = {"model": "tiny", "prompt": "the", "max_tokens": 2}


def read(tmp_path: Path, text: str) -> Keys:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    return Keys.read(path)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return read(tmp_path, f"# ours\n{line_of(KEY, 'the first one')}\n\n  {line_of(OTHER).upper()}  \n")


@pytest.fixture
def guarded(service: Service, keys: Keys) -> Iterator[TestClient]:
    page = APIRouter()

    @page.get("/page")
    async def open_page() -> str:
        return "open"

    app = create_app(service, keys=keys, metrics=lambda: (b"", "text/plain"), extra_routes=[page])
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_line_holds_the_sha256_of_the_key_and_a_name() -> None:
    assert line_of(KEY, "who") == sha256(KEY.encode()).hexdigest() + " who"


def test_only_keys_whose_hash_is_in_the_file_are_good(keys: Keys) -> None:
    assert keys.accept(KEY)
    assert keys.accept(OTHER)
    digest = sha256(KEY.encode()).hexdigest()
    assert not any(keys.accept(key) for key in ("", KEY[:-1], KEY + " ", KEY.upper(), digest, "ключ", "\ud800"))


@pytest.mark.parametrize("key", [KEY, OTHER, "wrong"])
def test_every_hash_is_compared_in_constant_time_whichever_is_right(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    compared, compare = [], hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    keys.accept(key)
    assert compared == list(keys.digests)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key"),
        ("# none\n", "no key"),
        (f"{line_of(KEY)}\nabc123 mine\n", "line 2"),
        (KEY, "line 1"),
        (line_of(KEY)[:-1], "line 1"),
        (line_of(KEY) + "mine", "line 1"),
    ],
)
def test_a_file_that_is_wrong_is_refused_without_telling_what_is_in_it(tmp_path: Path, text: str, message: str) -> None:
    """A key put there by mistake for its hash must not end up in a log."""
    with pytest.raises(LtsRayError, match=message) as refusal:
        read(tmp_path, text)
    assert "abc123" not in str(refusal.value)
    assert KEY not in str(refusal.value)
    assert line_of(KEY)[:20] not in str(refusal.value)


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="does not exist"):
        Keys.read(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xff")
    with pytest.raises(LtsRayError, match="read as UTF-8"):
        Keys.read(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/tiny")],
)
@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}])
def test_without_a_good_key_the_answer_is_401_in_openais_shape(
    guarded: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    """Before the body is looked at: it is none of a stranger's business what would be wrong with it."""
    response = guarded.request(method, path, headers=headers, content=b"no JSON")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "x-request-id" in response.headers


def test_a_good_key_opens_the_routes(guarded: TestClient) -> None:
    for key in (KEY, OTHER):
        assert guarded.post("/v1/completions", json=BODY, headers=bearer(key)).status_code == 200
        assert guarded.get("/v1/models", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/page"])
def test_probes_and_pages_stay_open(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_no_key_and_no_hash_is_told_anywhere(guarded: TestClient, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [guarded.post("/v1/completions", json=BODY, headers=bearer(key)) for key in (KEY, "lts-wrong")]
    told = caplog.text + repr(keys) + "".join(f"{answer.text} {answer.headers}" for answer in answers)
    secrets = [secret for key in (KEY, "lts-wrong") for secret in (key, line_of(key))]
    assert not [secret for secret in secrets if secret in told]
    assert "serve.access" in {record.name for record in caplog.records}


def test_the_command_prints_a_key_and_the_line_that_lets_it_in(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve.http.keys", "laptop"], capture_output=True, text=True, check=True
    ).stdout
    key, line = (each.split(": ", 1)[1] for each in printed.splitlines())
    assert read(tmp_path, line).accept(key)
    assert line.endswith(" laptop")


def test_keys_are_long_and_never_the_same() -> None:
    assert len({make_key() for _ in range(100)}) == 100
    assert len(make_key()) > 40


@pytest.mark.parametrize("arguments", [["a", "b"], ["--help"], ["two\nlines"]])
def test_the_command_says_how_it_is_used(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve.http.keys", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
