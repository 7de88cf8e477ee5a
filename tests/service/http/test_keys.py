import asyncio
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.http.keys import KeyRing, Scope, read_keys
from service.telemetry.metrics import Metrics
from tests.service.conftest import Client
from tests.service.key_files import bearer, entry, write_keys
from twotower.errors import DataError


def ring(path: Path, *entries: dict[str, Any]) -> KeyRing:
    return KeyRing(write_keys(path, *entries), Metrics(CollectorRegistry()))


def raw(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in headers.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def guarded(connect: Callable[..., Client], path: Path) -> Client:
    """A server with a key for each scope, and one for none."""
    return connect(keys=write_keys(path, *(entry(s.replace(":", "-"), s) for s in get_args(Scope)), entry("none")))


def ask(client: Client, method: str, path: str, key_id: str | None) -> int:
    headers = {"content-type": "application/json"} | (bearer(key_id) if key_id else {})
    body = {"/v1/items": b'{"items": []}' if method == "PUT" else b'{"item_ids": []}', "/v1/events": b'{"events": []}'}
    return client.request(
        method, path, content=body.get(path, b'{"item_id": "item-1"}' if "similar" in path else b"{}"), headers=headers
    ).status_code


def test_every_route_wants_a_key_with_its_scope_and_no_other(guarded: Client) -> None:
    opened = set()
    for route in guarded.app.asgi.table.routes:
        for path in route.paths:
            place = path.partition("{")[0] + ("item-1" if "{" in path else "")
            if route.scope == "open":
                opened.add(path)
                assert ask(guarded, route.method, place, None) == (404 if "{file" in path else 200)
                continue
            assert route.scope in get_args(Scope)
            assert ask(guarded, route.method, place, None) == 401
            for scope in (*get_args(Scope), "none"):
                expected = ask(guarded, route.method, place, scope.replace(":", "-"))
                assert expected != 401
                assert (expected == 403) == (scope != route.scope), (route.method, path, scope)
    pages = {"/", "/playground/{file:path}", "/docs", "/docs/{file:path}", "/openapi.json"}
    assert opened == {"/livez", "/readyz", *pages}


def test_who_has_no_key_learns_of_no_route(guarded: Client) -> None:
    for method, path in (("GET", "/nope"), ("GET", "/v1/recommend"), ("PATCH", "/v1/users/a"), ("GET", "/v1/admin/x")):
        assert ask(guarded, method, path, None) == 401
    assert ask(guarded, "GET", "/nope", "recommend") == 404
    assert ask(guarded, "GET", "/v1/recommend", "recommend") == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "web.secret of web"},
        {"authorization": "Bearer web.secret of web"},
        {"authorization": "bearer   web.secret of web "},
    ],
)
def test_a_key_is_sent_in_either_header(path: Path, headers: dict[str, str]) -> None:
    assert ring(path, entry("web", "recommend")).identify(raw(headers)).id == "web"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer web"},
        {"authorization": "Bearer web."},
        {"authorization": "Bearer web.secret of other"},
        {"authorization": "Bearer other.secret of web"},
        {"authorization": "Basic web.secret of web"},
        {"authorization": "Bearer web." + hashlib.sha256(b"secret of web").hexdigest()},
        {"authorization": "Bearer ü.ü"},
        {"x-api-key": "." * 10_000},
    ],
)
def test_anything_else_is_unauthorized(path: Path, headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        ring(path, entry("web", "recommend")).identify(raw(headers))
    assert refused.value.code == "unauthorized"


def test_a_refusal_says_how_to_send_a_key(guarded: Client) -> None:
    response = guarded.post("/v1/recommend", {})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert (
        'twotower_admission_rejected_total{reason="unauthorized"} 1.0'
        in guarded.request("GET", "/metrics", headers=bearer("metrics")).text
    )


def test_a_key_that_has_expired_is_unauthorized(path: Path) -> None:
    now = datetime.now(UTC)
    keys = ring(path, entry("old", expires=now - timedelta(seconds=1)), entry("new", expires=now + timedelta(hours=1)))
    assert keys.identify(raw(bearer("new"))).id == "new"
    with pytest.raises(ApiError):
        keys.identify(raw(bearer("old")))


def test_a_key_that_has_used_its_quota_is_told_when_to_come_back(connect: Callable[..., Client], path: Path) -> None:
    client = connect(keys=write_keys(path, entry("slow", "recommend", rate=0.2, burst=2), entry("fast", "recommend")))
    answers = [client.request("POST", "/v1/recommend", json={}, headers=bearer("slow")) for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 5
    assert answers[2].json()["error"]["code"] == "quota_exceeded"
    assert client.request("POST", "/v1/recommend", json={}, headers=bearer("fast")).status_code == 200


def test_a_bucket_fills_with_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("service.http.keys.time.monotonic", lambda: now[0])
    keys = ring(path, entry("web", "recommend", rate=10))
    key = keys.identify(raw(bearer("web")))

    def taken() -> int:
        for count in range(100):
            try:
                keys.permit(key, "recommend")
            except ApiError:
                return count
        return 100

    assert taken() == 10  # a second's worth
    now[0] += 0.35
    assert taken() == 3
    now[0] += 3600
    assert taken() == 10


def test_a_bucket_may_go_into_debt_which_time_pays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("service.http.keys.time.monotonic", lambda: now[0])
    keys = ring(path, entry("web", "recommend", rate=10, burst=5), entry("free", "recommend"))
    key = keys.identify(raw(bearer("web")))
    keys.permit(key, "recommend")
    keys.charge("web", 24)  # 20 more than there are
    with pytest.raises(ApiError) as refused:
        keys.permit(key, "recommend")
    assert (refused.value.code, refused.value.retry_after_s) == ("quota_exceeded", 3)  # in 2.1 s
    now[0] += 2.05
    with pytest.raises(ApiError):
        keys.permit(key, "recommend")
    now[0] += 0.1
    keys.permit(key, "recommend")


def test_a_key_without_a_limit_and_one_that_is_gone_can_be_charged(path: Path) -> None:
    keys = ring(path, entry("free", "recommend"))
    keys.charge("free", 1000)
    keys.charge("gone", 1000)
    keys.permit(keys.identify(raw(bearer("free"))), "recommend")


def test_a_limit_that_a_key_gets_later_does_not_count_the_requests_before_it(path: Path) -> None:
    keys = ring(path, entry("web", "recommend"))
    keys.charge("web", 1000)
    write_keys(path, entry("web", "recommend", rate=0.1, burst=1))
    os.utime(path, ns=(1, 1))
    asyncio.run(keys.refresh())
    keys.permit(keys.identify(raw(bearer("web"))), "recommend")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "keys"),
        ("keys = []", "at least 1|length >= 1"),
        ("keys = [", "Invalid|Unclosed|value"),
        ('[[keys]]\nid = "a"', "sha256"),
        ('[[keys]]\nid = "a b"\nsha256 = "%s"\nscopes = []' % ("0" * 64), "id"),
        ('[[keys]]\nid = "a"\nsha256 = "abc"\nscopes = []', "sha256"),
        ('[[keys]]\nid = "a"\nsha256 = "%s"\nscopes = ["everything"]' % ("0" * 64), "everything"),
        ('[[keys]]\nid = "a"\nsha256 = "%s"\nscopes = []\nsecret = "x"' % ("0" * 64), "secret"),
        ('[[keys]]\nid = "a"\nsha256 = "%s"\nscopes = []\nexpires = 2030-01-01T00:00:00' % ("0" * 64), "expires"),
        ('[[keys]]\nid = "a"\nsha256 = "%s"\nscopes = []\nrate = 0' % ("0" * 64), "rate"),
        (('[[keys]]\nid = "a"\nsha256 = "%s"\nscopes = []\n' % ("0" * 64)) * 2, "twice"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_reason(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(DataError, match=why):
        read_keys(path)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match=r"keys\.toml cannot be used: No such file"):
        read_keys(path)


def test_a_changed_file_is_read_again_and_fills_no_bucket(path: Path) -> None:
    keys = ring(path, entry("web", "recommend", rate=0.1, burst=1), entry("gone", "recommend"))
    keys.permit(keys.identify(raw(bearer("web"))), "recommend")
    keys.permit(keys.identify(raw(bearer("gone"))), "recommend")
    asyncio.run(keys.refresh())
    write_keys(path, entry("web", "recommend", rate=0.1, burst=1), entry("web-2", "admin"))
    os.utime(path, ns=(1, 1))
    asyncio.run(keys.refresh())
    assert keys.identify(raw(bearer("web-2"))).scopes == {"admin"}
    with pytest.raises(ApiError, match="valid API key"):
        keys.identify(raw(bearer("gone")))
    with pytest.raises(ApiError, match="requests per second"):
        keys.permit(keys.identify(raw(bearer("web"))), "recommend")
