"""Exceptions, from what servers and proxies answer."""

from datetime import UTC, datetime

import httpx
import pytest

import twotower_client
from service.api.errors import STATUS
from twotower_client.answers import ErrorDetail
from twotower_client.errors import error_of, refusal, retry_after_s

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Mon, 30 Nov 2026 12:01:30 GMT", 90.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_a_wait_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


@pytest.mark.parametrize("code", STATUS)
def test_every_code_of_the_server_has_the_exception_of_its_status(code: str) -> None:
    error = error_of(STATUS[code], ErrorDetail(code=code, message="m", request_id="r"))  # type: ignore[index]
    special = {
        "page_expired": twotower_client.PageExpired,
        "unauthorized": twotower_client.Unauthorized,
        "forbidden": twotower_client.Forbidden,
        "not_found": twotower_client.NotFound,
        "conflict": twotower_client.Conflict,
        "catalog_pending": twotower_client.Conflict,
        "quota_exceeded": twotower_client.QuotaExceeded,
        "internal": twotower_client.ServerFault,
        "delta_off": twotower_client.ServerFault,
        "uploads_off": twotower_client.ServerFault,
        "no_room": twotower_client.ServerFault,
        "delta_full": twotower_client.ServerFault,
    }
    usual = twotower_client.InvalidRequest if error.status < 500 else twotower_client.Unavailable
    assert type(error) is special.get(code, usual)


@pytest.mark.parametrize("body", [b"", b"<html>", b'"no"', b"{}", b'{"error": "text"}', b"\xff"])
def test_a_refusal_that_is_not_ours_is_an_error_with_the_request_id_that_was_sent(body: bytes) -> None:
    response = httpx.Response(403, content=body, request=httpx.Request("GET", "http://shop/v1/plan"))
    error = refusal(response, "id-1")
    assert type(error) is twotower_client.Forbidden
    assert (error.code, error.request_id) == ("unknown", "id-1")
    assert error.message.startswith("http://shop/v1/plan answered with 403 and no error of twotower, but ")
