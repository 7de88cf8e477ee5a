"""Whatever is sent: decoded and answered, or refused. Never a 5xx, and every refusal in the one shape."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.conftest import Client

CODES = {400: {"malformed_json"}, 404: {"not_found"}, 413: {"body_too_large"}, 422: {"invalid_request"}}
HEADERS = {"content-type": "application/json"}
EVENT = b'{"event_type": "v", "timestamp": 1735689600000, "user_id": "a", %b}'
VALUES = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"9" * 400,
    b"0." + b"3" * 400,
    b"1E+",
    b"01",
    b"+1",
    b".5",
    b"'a'",
    b"None",
    b"\xff",
    b'"\xff\xfe"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u0000"',
    b'"\x00"',
    b'"\xed\xa0\x80"',  # a surrogate as UTF-8
    b'"\\x41"',
    b"\xef\xbb\xbf1",
    b"[" * 2000,
    b"[" * 500 + b"]" * 500,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b"{}",
    b"[]",
    b"true",
    b"null",
    b'""',
    b'"' + b"a" * 5000 + b'"',
]
FIELDS = [
    "user_id",
    "num_results",
    "timestamp",
    "events",
    "filter",
    "exclude_item_ids",
    "item_id",
    "item",
    "timeout_ms",
    "nonsense",
]


def check(client: Client, path: str, body: bytes) -> None:
    response = client.request("POST", path, content=body, headers=HEADERS)
    assert response.status_code in (200, 202, *CODES), response.text
    answer = json.loads(response.content)
    if response.status_code in CODES:
        assert answer["error"]["code"] in CODES[response.status_code]
        assert answer["error"]["message"]
        assert answer["error"]["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/similar", "/v1/events"])
def test_every_odd_value_in_every_field_is_answered_or_refused(shared_client: Client, path: str) -> None:
    for value in VALUES:
        check(shared_client, path, value)
        for field in FIELDS:
            check(shared_client, path, b'{"%b": %b}' % (field.encode(), value))
            check(shared_client, path, b'{"events": [%b]}' % (EVENT % (b'"%b": %b' % (field.encode(), value))))
        check(shared_client, path, b'{"user_id": "a", "user_id": %b}' % value)  # a name given twice


# Valid bodies, bent: the mistakes of real clients lie near what is right.
valid: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text(min_size=1, max_size=8),
        "num_results": st.integers(1, 5),
        "events": st.lists(
            st.fixed_dictionaries(
                {"event_type": st.sampled_from(["view", "purchase"]), "timestamp": st.integers(10**12, 2 * 10**12)},
                optional={"item_id": st.text(min_size=1, max_size=8), "user_id": st.text(max_size=2)},
            ),
            max_size=3,
        ),
        "filter": st.sampled_from(["price < 3", "price <", "title == 'a'"]),
        "item_id": st.sampled_from(["item-1", "gone"]),
    },
)
bends = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3)), max_size=3)


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/similar", "/v1/events"])
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=valid, bends=bends, escaped=st.booleans())
def test_a_bent_body_is_answered_or_refused(
    shared_client: Client, path: str, body: dict[str, Any], bends: list[tuple[int, bytes, int]], escaped: bool
) -> None:
    encoded = json.dumps(body, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    for place, inserted, removed in bends:
        encoded = encoded[:place] + inserted + encoded[place + removed :]
    check(shared_client, path, encoded)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(max_size=130), escaped=st.booleans())
def test_escapes_and_plain_text_are_refused_alike(shared_client: Client, text: str, escaped: bool) -> None:
    event = {"event_type": "view", "timestamp": 10**12, "item_id": text}
    body = json.dumps({"events": [event]}, ensure_ascii=escaped).encode()
    usable = 0 < len(text.encode()) <= 128 and "\0" not in text
    response = shared_client.post_raw("/v1/recommend", body)
    assert response.status_code == (200 if usable else 422)
    if not usable:
        assert response.json()["error"]["field"] == "events[0].item_id"


@pytest.mark.faults
@settings(max_examples=3000, deadline=None)
@given(body=st.binary(max_size=400))
def test_no_bytes_give_a_server_error(shared_client: Client, body: bytes) -> None:
    check(shared_client, "/v1/recommend", body)
    check(shared_client, "/v1/events", b'{"events": [' + body + b"]}")


def test_a_query_string_or_an_odd_path_is_no_server_error(connect: Callable[..., Client]) -> None:
    client = connect()
    for path in ("/v1/users/%FF", "/v1/users/%ED%A0%80", "/v1/items/%00", "/%2e%2e/etc", "/v1/recommend?a=%FF&a", "/*"):
        for method in ("GET", "POST", "DELETE"):
            assert client.request(method, path).status_code in (200, 404, 405, 415, 422)
