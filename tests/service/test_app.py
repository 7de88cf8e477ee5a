import asyncio
import contextvars
import uuid
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.app import build_app, charge
from service.histories.history import UserHistory
from service.http.keys import KeyRing
from service.release.loaded import LoadedRelease
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RECORD, RequestRecord
from tests.service.conftest import NOW_MS, Client, MemoryHistory
from tests.service.key_files import entry, write_keys


class BrokenHistory(MemoryHistory):
    """A store with a bug."""

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        raise ZeroDivisionError("the secret of " + user_id)


def test_a_bug_is_a_500_that_tells_nothing_but_its_request_id(settings: Settings, release: LoadedRelease) -> None:
    async def call() -> list[httpx.Response]:
        app = build_app(settings, release, BrokenHistory(), Metrics(CollectorRegistry()))
        transport = httpx.ASGITransport(app.asgi, raise_app_exceptions=False)
        lifespan = app.fastapi.router.lifespan_context(app.fastapi)
        async with lifespan, httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
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
    handlers = [handler for route in client.app.asgi.table.routes if (handler := route.hot or route.handler)]
    handlers += [route.endpoint for route in client.app.fastapi.router.routes if hasattr(route, "endpoint")]
    assert len(handlers) > 15
    assert all(asyncio.iscoroutinefunction(handler) for handler in handlers)


def test_fastapi_itself_serves_nothing(client: Client) -> None:
    assert not client.app.fastapi.router.routes
    assert all(route.hot or route.handler for route in client.app.asgi.table.routes)


def test_the_release_and_the_parts_are_ready_when_the_application_has_started(client: Client, release: LoadedRelease) -> None:
    assert client.context.served.current is release
    assert client.app.cache.max_bytes == client.context.settings.user_cache_mb << 20
    assert client.context.readiness.trouble() is None


def test_the_engine_knows_its_pace_before_the_first_request(client: Client) -> None:
    assert client.context.engine.pace[0] > 0


def test_the_gauges_show_what_the_cache_and_the_engine_hold(client: Client) -> None:
    user = uuid.uuid4().hex  # the release, and what is kept of users, is shared by all tests
    event = {"event_type": "view", "timestamp": NOW_MS, "item_id": client.context.served.current.item_ids[0]}
    sample = client.context.metrics.registry.get_sample_value
    before = [sample("twotower_user_cache", {"outcome": name}) or 0 for name in ("hits", "misses")]
    for _ in range(3):
        client.recommend(user_id=user, events=[event])
    after = [sample("twotower_user_cache", {"outcome": name}) or 0 for name in ("hits", "misses")]
    assert [now - then for then, now in zip(before, after, strict=True)] == [2, 1]
    assert (sample("twotower_user_cache_bytes") or 0) > 0
    assert (sample("twotower_queue_depth"), sample("twotower_queue_tokens")) == (0, 0)


def test_further_requests_are_charged_to_the_key_of_the_one_that_is_served(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml", entry("web", "recommend", rate=0.01, burst=3))
    keys = KeyRing(path, Metrics(CollectorRegistry()))
    key = keys.identify({b"x-api-key": b"web.secret of web"})

    def with_record(key_id: str | None, num_requests: int) -> None:
        RECORD.set(RequestRecord("id", 0.0, key_id=key_id))
        charge(keys, num_requests)

    for key_id, num_requests in ((None, 5), ("web", -1), ("web", 0)):  # -1 is what an empty batch has beyond its first
        contextvars.copy_context().run(with_record, key_id, num_requests)
    charge(keys, 5)  # no request is served
    charge(None, 5)  # there are no keys
    keys.permit(key, "recommend")
    contextvars.copy_context().run(with_record, "web", 2)
    with pytest.raises(ApiError, match="requests per second"):
        keys.permit(key, "recommend")
