import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from service.api.codec import explain
from service.api.errors import STATUS
from service.settings import Settings
from tests.service.conftest import Client

RECOMMEND = "/v1/recommend"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf{}",  # byte order mark
        b'{"user_id": "\xff"}',
        b'{"user_id": "\\ud800"}',  # half of a surrogate pair
        b'{"events": [{"event_type": "v", "timestamp": 1735689600000, "value": NaN}]}',
        b'{"events": [{"event_type": "v", "timestamp": 1735689600000, "value": Infinity}]}',
        b"{} {}",
    ],
)
def test_what_is_not_json_is_malformed(client: Client, body: bytes) -> None:
    response = client.post_raw(RECOMMEND, body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"events":' * 20_000, b'{"events":' + b"[" * 100_000])
def test_deep_nesting_is_refused_not_a_crash(client: Client, body: bytes) -> None:
    assert client.post_raw(RECOMMEND, body).status_code in (400, 422)
    assert client.post_raw("/v1/events", body).status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"num_results": 0}, "num_results"),
        ({"num_results": 10**9}, "num_results"),
        ({"num_results": "x"}, "num_results"),
        ({"nonsense": 1}, "nonsense"),
        ({"promotions": {}}, "promotions"),
        ({"promotions": [{"name": "a", "filter": "x", "positon": 1}]}, "promotions[0].positon"),
        ({"promotions": [{"name": "a", "filter": "x"}]}, "promotions[0].position"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "é" * 65}, "user_id"),
        ({"exclude_item_ids": ["a", ""]}, "exclude_item_ids[1]"),  # as msgspec counts
        ({"exclude_item_ids": ["a\0"]}, "exclude_item_ids"),
        ({"events": [{"event_type": "v", "timestamp": 5}]}, "events[0].timestamp"),
        ({"events": [{"event_type": "v"}]}, "events[0].timestamp"),
        ({"events": [{"event_type": "v", "timestamp": "2199-01-01T00:00:00Z"}]}, "events[0].timestamp"),
        ({"events": [{"event_type": "v", "timestamp": 10**12, "item_id": "a\0b"}]}, "events[0].item_id"),
        ({"events": [{"event_type": "v", "timestamp": 10**12, "user_id": "b"}], "user_id": "a"}, "events[0].user_id"),
        ({"timestamp": "1970-01-01T00:00:00Z"}, "timestamp"),
        ({"filter": "price <"}, "filter"),
        ([], None),
        (3, None),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_by_field(client: Client, body: Any, field: str | None) -> None:
    response = client.post(RECOMMEND, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert error.get("field") == field
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]


def test_a_validation_message_is_parted_from_its_path() -> None:
    assert explain("Expected `int` >= 1 - at `$.k`") == ("Expected `int` >= 1", "k")
    assert explain("Object missing required field `t` - at `$.events[3]`") == ("Object missing required field `t`", "events[3].t")
    assert explain("item_id: too long - at `$.events[3]`") == ("item_id: too long", "events[3].item_id")
    assert explain("Expected `object`, got `array`") == ("Expected `object`, got `array`", None)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(client: Client, kind: str) -> None:
    response = client.post_raw(RECOMMEND, b"{}", **{"content-type": kind})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_charset_and_capitals_in_the_media_type_are_fine(client: Client) -> None:
    assert client.post_raw(RECOMMEND, b"{}", **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_refused(client: Client, coding: str) -> None:
    assert client.post_raw(RECOMMEND, b"{}", **{"content-encoding": coding}).status_code == 415


def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(client: Client, settings: Settings) -> None:
    limit = settings.max_body_bytes
    assert client.post_raw(RECOMMEND, b"{}".ljust(limit)).status_code == 200
    response = client.post_raw(RECOMMEND, b"{}".ljust(limit + 1))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_a_body_without_a_length_is_cut_off_at_the_limit(client: Client, settings: Settings) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)

    response = client.request("POST", RECOMMEND, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert sent <= settings.max_body_bytes + (1 << 17)


def test_a_declared_length_beyond_the_limit_is_refused_before_any_byte(client: Client) -> None:
    async def never() -> AsyncIterator[bytes]:
        for _ in range(1):
            pytest.fail("the body was read")
        yield b""

    headers = {"content-type": "application/json", "content-length": "999999999"}
    assert client.request("POST", RECOMMEND, content=never(), headers=headers).status_code == 413


def test_a_body_that_does_not_arrive_in_time_is_given_up(connect: Callable[..., Client]) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    client = connect(body_timeout_s=0.05)
    response = client.request("POST", RECOMMEND, content=slow(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (408, "slow_body")


@pytest.mark.parametrize("given", ["abc-DEF_123", "x" * 64])
def test_a_harmless_request_id_is_kept(client: Client, given: str) -> None:
    assert client.request("GET", "/livez", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", "../etc", "a\tb", "ü"])
def test_any_other_request_id_is_replaced(client: Client, given: str) -> None:
    headers = [(b"x-request-id", given.encode("latin-1"))]
    fresh = client.request("GET", "/livez", headers=headers).headers["x-request-id"]
    assert fresh != given
    assert len(fresh) == 32


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/recommend/", "/v1/releases/x", "/v2/recommend"])
def test_an_unknown_route_is_not_found_in_the_same_shape(client: Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_another_method_is_not_allowed_in_the_same_shape(client: Client) -> None:
    response = client.get(RECOMMEND)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert client.request("PATCH", "/v1/users/ann").status_code == 405


def test_every_refusal_has_a_status_that_is_not_a_success() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
    assert [code for code, status in STATUS.items() if status == 500] == ["internal"]


def test_a_body_may_hold_every_character_json_can(client: Client) -> None:
    body = msgspec.json.encode({"user_id": 'a/b\n\t"🧦\u202e'})
    assert client.post_raw(RECOMMEND, body).status_code == 200
