import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.engine.thread import Engine
from service.http.front import Answer, Front
from service.http.route_table import Route, RouteTable
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RequestRecord
from tests.service.conftest import Client
from tests.service.key_files import bearer, entry, write_keys

PRIVATE = ["/metrics", "/docs", "/openapi.json", "/v1/releases", "/"]


def on_port(client: Client, port: int, path: str) -> httpx.Response:
    return client.request("GET", f"http://shop:{port}{path}")


def test_with_an_admin_port_what_operators_need_is_there_and_nowhere_else(connect: Callable[..., Client]) -> None:
    client = connect(admin_port=9000)
    for path in PRIVATE:
        assert on_port(client, 9000, path).status_code == 200
        assert on_port(client, 8000, path).status_code == 404
    for port in (8000, 9000):
        assert on_port(client, port, "/v1/users/ann").status_code == 200


def test_with_an_admin_port_health_is_told_in_detail_there_alone(connect: Callable[..., Client]) -> None:
    client = connect(admin_port=9000)
    assert on_port(client, 8000, "/livez").json() == {"status": "ok", "release": None, "heartbeat_age_s": None}
    assert on_port(client, 9000, "/readyz").json()["release"]


def test_without_one_everything_is_on_one_port(client: Client) -> None:
    for path in PRIVATE:
        assert client.get(path).status_code == 200


def test_the_host_header_opens_no_port(connect: Callable[..., Client]) -> None:
    client = connect(admin_port=9000)
    assert client.request("GET", "/metrics", headers={"host": "shop:9000"}).status_code == 404


@pytest.mark.parametrize("path", ["/recommend", "/v1/recommend", "/v1/events", "/v1/similar", "/livez", "/nope"])
def test_every_answer_has_its_request_id_once(client: Client, path: str) -> None:
    response = client.request("POST", path, content=b"{}", headers={"content-type": "application/json", "x-request-id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/similar"])
def test_a_connection_ends_where_the_rest_of_a_body_could_be_anything(client: Client, path: str) -> None:
    json = {"content-type": "application/json"}
    chunked = client.request("POST", path, content=b"{", headers=json | {"transfer-encoding": "chunked"})
    huge = client.request("POST", path, content=b"{", headers=json | {"content-length": "999999999"})
    usual = client.request("POST", path, content=b"{", headers=json)
    assert [r.headers.get("connection") for r in (chunked, huge, usual)] == ["close", "close", None]


def test_only_slow_failed_and_sampled_requests_are_reported(connect: Callable[..., Client]) -> None:
    records: list[RequestRecord] = []
    for rate in (0.0, 1.0):
        client = connect(log_sample_rate=rate)
        client.app.asgi._reporters = (records.append,)
        client.recommend(user_id="ann", events=[])
        client.post("/v1/recommend", {"num_results": 0})
        assert bool(records) == bool(rate)
    answered, refused = records
    assert (answered.status, answered.user_id, answered.route) == (200, "ann", "/v1/recommend")
    assert [name for name, _, _ in answered.stages] == ["decode", "history", "engine", "encode"]
    assert sum(end - start for _, start, end in answered.stages) <= answered.duration_s
    assert (refused.status, [name for name, _, _ in refused.stages]) == (422, ["decode"])


def test_the_record_of_a_batch_names_no_user_because_there_may_be_several(connect: Callable[..., Client]) -> None:
    records: list[RequestRecord] = []
    client = connect(log_sample_rate=1.0)
    client.app.asgi._reporters = (records.append,)
    client.post("/v1/recommend/batch", {"requests": [{"user_id": "ann"}, {"user_id": "bob"}]})
    assert [(record.status, record.user_id) for record in records] == [(200, None)]


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every engine one without room."""
    monkeypatch.setattr(Engine, "has_room", lambda *_: False)
    monkeypatch.setattr(Engine, "wait_s", 1.0)


def test_a_flood_of_refusals_does_not_flood_the_log(connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[RequestRecord] = []
    client = connect(log_sample_rate=0.0)
    client.app.asgi._reporters = (records.append,)
    fill(monkeypatch)
    assert client.post("/v1/recommend", {"user_id": "ann"}).status_code == 503
    assert not records


JSON_HEADERS = [(b"content-type", b"application/json"), (b"x-request-id", b"mine")]


def test_a_full_server_refuses_at_once_as_its_route_would_and_it_is_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, body = client.app.asgi, b'{"user_id": "ann"}'
    assert not front.is_busy()
    let_in = front.answer(b"/v1/recommend", JSON_HEADERS, body)
    assert isinstance(let_in, Coroutine)
    assert client.run(let_in).status == 200
    fill(monkeypatch)
    assert front.is_busy()
    for path in (b"/v1/recommend", b"/recommend"):
        refusal = front.answer(path, JSON_HEADERS, body)
        assert isinstance(refusal, Answer)
        by_the_route = client.request("POST", path.decode(), content=body, headers=dict(JSON_HEADERS))
        assert (refusal.status, json.loads(refusal.body)) == (503, by_the_route.json())
        assert {name: value for name, value in refusal.headers if name != b"content-type"} == {
            b"retry-after": b"1", b"content-length": b"%d" % len(refusal.body), b"x-request-id": b"mine"
        }  # fmt: skip
    shown = client.get("/metrics").text
    assert 'twotower_admission_rejected_total{reason="queue_full"} 4.0' in shown
    (counted,) = [line for line in shown.splitlines() if "duration_seconds_count{" in line and '"503"' in line]
    assert counted.endswith(" 4.0")


def test_a_server_that_is_leaving_refuses_nothing_early(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch)
    client.context.readiness.leaving = "the server is stopping"
    assert not client.app.asgi.is_busy()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [(JSON_HEADERS, b"{", 400), (JSON_HEADERS, b'{"num_results": 0}', 422), ([], b"{}", 415)],
)
def test_a_full_server_still_says_what_is_wrong_with_a_request(
    client: Client, monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes]], body: bytes, status: int
) -> None:
    fill(monkeypatch)
    answering = client.app.asgi.answer(b"/v1/recommend", headers, body)
    assert isinstance(answering, Coroutine)
    assert client.run(answering).status == status


def test_the_routes_of_bytes_are_answered_on_the_short_way(client: Client) -> None:
    assert set(client.app.asgi.hot) == {b"/v1/recommend", b"/recommend", b"/v1/events", b"/events"}


class Parts:
    """A front over a few routes of the test's own."""

    def __init__(self, *routes: Route) -> None:
        settings, metrics = Settings(store=Path("nowhere")), Metrics(CollectorRegistry())
        self.front = Front(self.inside, RouteTable(routes), settings, metrics)
        self.num_inside = 0

    async def inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_inside += 1
        await Response("inside")(scope, receive, send)

    def call(self, method: str, path: str, body: bytes = b"{}") -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.front), base_url="http://shop") as http:
                return await http.request(method, path, content=body, headers={"content-type": "application/json"})

        return asyncio.run(ask())


def test_a_full_server_that_has_room_after_all_decodes_a_body_once() -> None:
    decoded = list[bytes]()

    def decode(body: bytes) -> str:
        decoded.append(body)
        return "now"

    async def serve(request: str) -> bytes:
        return json.dumps(request).encode()

    parts = Parts(Route("POST", ("/hot",), decode=decode, hot=serve, refuse_early=lambda _: None))
    parts.front.is_busy = lambda: True
    answering = parts.front.answer(b"/hot", JSON_HEADERS, b"1")
    assert isinstance(answering, Coroutine)
    assert asyncio.run(_result(answering)).body == b'"now"'
    assert decoded == [b"1"]
    assert parts.call("POST", "/hot", b"2").json() == "now"
    assert decoded == [b"1", b"2"]


async def _result(answering: Coroutine[Any, Any, Answer]) -> Answer:
    return await answering


def test_a_bug_of_a_hot_route_is_answered_and_logged_and_its_text_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: str) -> bytes:
        raise ZeroDivisionError("a secret")

    parts = Parts(Route("POST", ("/hot",), decode=lambda body: body.decode(), hot=fail))
    answering = parts.front.answer(b"/hot", JSON_HEADERS, b"1")
    assert isinstance(answering, Coroutine)
    answer = asyncio.run(_result(answering))
    assert answer.status == 500
    assert b"a secret" not in answer.body
    assert "a secret" in caplog.text


IDS = ["ann", "a/b", "a//b/", "/", "a\nb", "a\r\nb\u2028c", "\n", "🧦", "{id}", "%2F"]


@pytest.mark.parametrize("user", IDS)
def test_the_front_calls_the_handler_itself_with_the_id_in_the_path(user: str) -> None:
    async def tell(request: Request) -> Response:
        return JSONResponse({"id": request.path_params["user_id"], "method": request.method})

    path = "/v1/users/{user_id:path}"
    parts = Parts(Route("GET", (path,), tell), Route("DELETE", (path,), tell))
    for method in ("GET", "DELETE"):
        assert parts.call(method, f"/v1/users/{quote(user, safe='')}").json() == {"id": user, "method": method}
    assert parts.num_inside == 0


def test_a_route_without_a_handler_is_served_by_the_application_inside() -> None:
    parts = Parts(Route("GET", ("/docs",)))
    assert (parts.call("GET", "/docs").text, parts.num_inside) == ("inside", 1)


def test_the_route_of_a_request_is_looked_up_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = list[str]()
    at = RouteTable.at

    def counted(table: RouteTable, path: str, private: bool) -> dict[str, Route]:
        looked_up.append(path)
        return at(table, path, private)

    monkeypatch.setattr(RouteTable, "at", counted)
    client.recommend()
    client.get("/v1/users/ann")
    assert looked_up == ["/v1/recommend", "/v1/users/ann"]


@pytest.mark.parametrize("path", ["/livez", "/v1/users/a%2Fb%0A", "/v1/items/item-1", "/metrics", "/docs"])
def test_head_answers_as_get_does_without_a_body_of_its_own(client: Client, path: str) -> None:
    head, get = client.request("HEAD", path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "message"),
    [
        ("GET", "/nope", 404, "not_found", "there is no /nope; see /docs"),
        ("GET", "/v1/user", 404, "not_found", "there is no /v1/user; see /docs"),
        ("POST", "/v1/recommend/", 404, "not_found", "there is no /v1/recommend/; see /docs"),
        ("GET", "/v1/recommend", 405, "method_not_allowed", "/v1/recommend does not accept GET; see /docs"),
        ("HEAD", "/v1/recommend", 405, "method_not_allowed", ""),
        ("PATCH", "/v1/users/a/b", 405, "method_not_allowed", "/v1/users/a/b does not accept PATCH; see /docs"),
        ("BREW", "/livez", 405, "method_not_allowed", "/livez does not accept BREW; see /docs"),
        ("POST", "/docs", 405, "method_not_allowed", "/docs does not accept POST; see /docs"),
    ],
)
def test_an_unknown_path_and_a_wrong_method_are_refused_by_name(
    client: Client, method: str, path: str, status: int, code: str, message: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    if message:
        assert (response.json()["error"]["code"], response.json()["error"]["message"]) == (code, message)


def test_a_request_that_is_being_answered_is_counted(client: Client) -> None:
    assert client.app.asgi.num_in_flight == 0
    assert "twotower_requests_in_flight 1.0" in client.get("/metrics").text
    assert client.app.asgi.num_in_flight == 0


def test_the_key_is_noted(connect: Callable[..., Client], tmp_path: Path) -> None:
    records: list[RequestRecord] = []
    client = connect(log_sample_rate=1.0, keys=write_keys(tmp_path / "k.toml", entry("web", "recommend")))
    client.app.asgi._reporters = (records.append,)
    client.request("POST", "/v1/recommend", json={}, headers=bearer("web"))
    assert records[0].key_id == "web"
