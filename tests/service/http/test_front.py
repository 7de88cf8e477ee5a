import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.engine.thread import Engine
from service.telemetry.trail import Trail
from tests.service.conftest import Client
from tests.service.key_files import bearer, entry, write_keys

PRIVATE = ["/metrics", "/docs", "/openapi.json", "/v1/releases", "/"]


def on_port(client: Client, port: int, path: str) -> httpx.Response:
    return client.request("GET", f"http://shop:{port}{path}")


def test_with_an_admin_port_what_operators_need_is_there_and_nowhere_else(connect: Callable[..., Client]) -> None:
    client = connect(admin_port=9000)
    for path in PRIVATE:
        assert on_port(client, 9000, path).status_code in (200, 307)
        assert on_port(client, 8000, path).status_code == 404
    for port in (8000, 9000):
        assert on_port(client, port, "/v1/users/ann").status_code == 200


def test_with_an_admin_port_health_is_told_in_detail_there_alone(connect: Callable[..., Client]) -> None:
    client = connect(admin_port=9000)
    assert on_port(client, 8000, "/livez").json() == {"status": "ok", "release": None, "heartbeat_age_s": None}
    assert on_port(client, 9000, "/readyz").json()["release"]


def test_without_one_everything_is_on_one_port(client: Client) -> None:
    for path in PRIVATE:
        assert client.get(path).status_code in (200, 307)


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
    trails: list[Trail] = []
    for rate in (0.0, 1.0):
        client = connect(log_sample_rate=rate)
        client.front._reporters = (trails.append,)
        client.recommend(user_id="ann", events=[])
        client.post("/v1/recommend", {"num_results": 0})
        assert bool(trails) == bool(rate)
    answered, refused = trails
    assert (answered.status, answered.user_id, answered.route) == (200, "ann", "/v1/recommend")
    assert [name for name, _, _ in answered.stages] == ["decode", "history", "engine", "encode"]
    assert sum(end - start for _, start, end in answered.stages) <= answered.duration_s
    assert (refused.status, [name for name, _, _ in refused.stages]) == (422, ["decode"])


def test_a_flood_of_refusals_does_not_flood_the_log(connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    trails: list[Trail] = []
    client = connect(log_sample_rate=0.0)
    client.front._reporters = (trails.append,)
    monkeypatch.setattr(Engine, "is_full", lambda *_: True)
    assert client.post("/v1/recommend", {"user_id": "ann"}).status_code == 503
    assert not trails


JSON_HEADERS = [(b"content-type", b"application/json"), (b"x-request-id", b"mine")]


def test_at_the_door_is_refused_what_would_be_refused_inside_and_it_is_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, body = client.front, b'{"user_id": "ann"}'
    assert not front.is_busy()
    assert front.at_once(b"/v1/recommend", JSON_HEADERS, body) is None
    monkeypatch.setattr(Engine, "is_full", lambda *_: True)
    monkeypatch.setattr(Engine, "wait_s", 1.0)
    assert front.is_busy()
    for path in (b"/v1/recommend", b"/recommend"):
        refusal = front.at_once(path, JSON_HEADERS, body)
        assert refusal
        status, headers, text = refusal
        inside = client.request("POST", path.decode(), content=body, headers=dict(JSON_HEADERS))
        assert (status, json.loads(text)) == (503, inside.json())
        assert {name: value for name, value in headers if name != b"content-type"} == {
            b"retry-after": b"1", b"content-length": b"%d" % len(text), b"x-request-id": b"mine"
        }  # fmt: skip
    shown = client.get("/metrics").text
    assert 'twotower_admission_rejected_total{reason="queue_full"} 4.0' in shown
    (counted,) = [line for line in shown.splitlines() if "duration_seconds_count{" in line and '"503"' in line]
    assert counted.endswith(" 4.0")


@pytest.mark.parametrize(("headers", "body"), [(JSON_HEADERS, b"{"), (JSON_HEADERS, b'{"num_results": 0}'), ([], b"{}")])
def test_what_is_wrong_is_said_inside(
    client: Client, monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    monkeypatch.setattr(Engine, "is_full", lambda *_: True)
    assert client.front.at_once(b"/v1/recommend", headers, body) is None


def test_a_request_that_is_being_answered_is_counted(client: Client) -> None:
    assert client.front.num_in_flight == 0
    assert "twotower_requests_in_flight 1.0" in client.get("/metrics").text
    assert client.front.num_in_flight == 0


def test_the_key_is_noted(connect: Callable[..., Client], tmp_path: Path) -> None:
    trails: list[Trail] = []
    client = connect(log_sample_rate=1.0, keys=write_keys(tmp_path / "k.toml", entry("web", "recommend")))
    client.front._reporters = (trails.append,)
    client.request("POST", "/v1/recommend", json={}, headers=bearer("web"))
    assert trails[0].key_id == "web"
