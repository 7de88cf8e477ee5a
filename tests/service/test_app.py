import asyncio
from typing import cast

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.app import build_app
from service.histories.history import UserHistory
from service.release.loaded import LoadedRelease
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.conftest import Client, MemoryHistory


class BrokenHistory(MemoryHistory):
    """A store with a bug."""

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        raise ZeroDivisionError("the secret of " + user_id)


def test_a_bug_is_a_500_that_tells_nothing_but_its_request_id(settings: Settings, release: LoadedRelease) -> None:
    async def call() -> list[httpx.Response]:
        front = build_app(settings, release, BrokenHistory(), Metrics(CollectorRegistry()))
        app = cast(FastAPI, front.app)
        transport = httpx.ASGITransport(front, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            headers = {"x-request-id": "mine"}
            hot = await http.post("/v1/recommend", json={"user_id": "ann"}, headers=headers)
            return [hot, await http.get("/v1/users/ann", headers=headers)]

    for response in asyncio.run(call()):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["request_id"]) == (500, "internal", "mine")
        assert "secret" not in response.text


def test_two_apps_in_one_process_share_nothing(settings: Settings, release: LoadedRelease) -> None:
    with Client(settings, release, MemoryHistory()) as one, Client(settings, release, MemoryHistory()) as other:
        one.recommend()
        assert 'route="/v1/recommend"' in one.get("/metrics").text
        assert 'route="/v1/recommend"' not in other.get("/metrics").text


def test_every_route_is_a_coroutine_so_that_none_waits_for_a_thread(client: Client) -> None:
    endpoints = [route.endpoint for route in client.app.router.routes if hasattr(route, "endpoint")]
    endpoints += [route.hot for route in client.front.table.routes if route.hot]
    assert len(endpoints) > 10
    assert all(asyncio.iscoroutinefunction(e) for e in endpoints)
