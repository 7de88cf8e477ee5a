"""Which pages may call from browsers, and that none may without a list."""

import pytest

from service.http.cors import AllowedOrigins
from service.http.messages import JSON, Headers

SHOP = b"https://shop.example"
PREFLIGHT: Headers = {b"origin": SHOP, b"access-control-request-method": b"POST"}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ("", SHOP, False),
        ("https://shop.example", SHOP, True),
        (" https://other.example , https://shop.example ", SHOP, True),
        ("https://shop.example", b"https://shop.example.evil.example", False),
        ("https://shop.example", b"null", False),
        ("*", b"https://anybody.example", True),
    ],
)
def test_only_listed_origins_may_read_answers_and_ask(origins: str, origin: bytes, allowed: bool) -> None:
    known, headers = AllowedOrigins(origins), {**PREFLIGHT, b"origin": origin}
    assert (dict(known.of(headers)).get(b"access-control-allow-origin") == origin) is allowed
    assert (known.preflight("OPTIONS", headers) is not None) is allowed
    beacon = {b"content-type": b"text/plain;charset=UTF-8", b"origin": origin}
    assert (known.as_json(beacon)[b"content-type"] == JSON) is allowed


def test_a_preflight_learns_what_a_page_may_send() -> None:
    named = dict(AllowedOrigins("*").preflight("OPTIONS", PREFLIGHT) or ())
    assert b"POST" in named[b"access-control-allow-methods"]
    assert b"authorization" in named[b"access-control-allow-headers"]
    assert named[b"vary"] == b"origin"


def test_requests_that_no_page_makes_are_as_ever() -> None:
    known = AllowedOrigins("https://shop.example")
    assert known.of({}) == [(b"vary", b"origin")]
    assert AllowedOrigins("").of(PREFLIGHT) == []
    assert known.preflight("POST", PREFLIGHT) is None
    assert known.preflight("OPTIONS", {b"origin": SHOP}) is None
    assert known.as_json({b"content-type": b"text/plain"})[b"content-type"] == b"text/plain", "a form of any page"
    assert known.as_json({b"content-type": b"text/html", b"origin": SHOP})[b"content-type"] == b"text/html"
