"""The present routes over a fleet: they cannot tell it from an engine, but that an answer says where it was made."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.text.tokenizer import load_tokenizer
from serve.http.api import create_app
from serve.http.playground import playground_router
from serve.http.service import Service
from tests.serve.fleet.fleets import tiny_fleet
from tests.serve.models import tiny_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


async def test_the_routes_serve_a_fleet_as_they_serve_an_engine(model: MatFormer, model_dir: Path) -> None:
    async with tiny_fleet(model) as tiny:
        service = Service(engine=tiny.fleet, tokenizer=load_tokenizer(model_dir), name="tiny", created=1)
        app = create_app(service, extra_routes=[playground_router(service)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fleet") as client:
            assert (await client.get("/playground/frontier")).status_code == 503
            await tiny.add("a", kind="small")
            await tiny.has("a")
            asked = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0, "ignore_eos": True}
            whole = (await client.post("/v1/completions", json=asked)).json()
            assert {key: whole["lts"][key] for key in ("kind", "replica", "migrations")} == {
                "kind": "small",
                "replica": "a",
                "migrations": 0,
            }
            assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
            streamed = await client.post("/v1/completions", json=asked | {"stream": True})
            assert streamed.text.rstrip().endswith("data: [DONE]")
            late = await client.post(
                "/v1/completions", json=asked | {"latency_budget_ms": 0.1}, headers={"x-slo-strict": "true"}
            )
            assert late.status_code == 429
            assert set(late.json()["error"]["smallest_feasible_budget_ms"]) == {"e2e"}
            assert (await client.get("/health")).json() == {"status": "ok", "running": 0, "waiting": 0}
            names = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
            assert names == ["tiny", "tiny:S", "tiny:M", "tiny:L", "tiny:XL"]
            assert (await client.get("/playground/frontier")).status_code == 200
