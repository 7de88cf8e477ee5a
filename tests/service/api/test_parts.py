"""An element that is not JSON spoils no other element of its list."""

import msgspec
import pytest

from service.api.errors import ApiError
from service.api.parts import decode_parts
from service.api.schemas import MAX_EVENTS, EventsBody

_events = msgspec.json.Decoder(EventsBody)


def parts(body: bytes) -> list[bytes]:
    return [bytes(part) for part in decode_parts(body, _events, "events").events]


CUT = (b'"\\ud83d"', b'{"a": "cut \\ud83d here"}', b'["\\ude00"]')


@pytest.mark.parametrize("bad", [*CUT, b"NaN", b'{"v":-Infinity}', b'"a\x01b"'])
def test_the_elements_around_one_that_is_not_json_are_kept(bad: bytes) -> None:
    assert parts(b' { "events" : [ {"a": 1} ,\n' + bad + b', "]}"] } ') == [b'{"a": 1}', bad, b'"]}"']
    assert parts(b'{"events":[' + bad + b"]}") == [bad]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"events":[1',
        b'{"events":[1,]}',
        b'{"events":[NaN',
        b'{"events":[NaN]',
        b'{"events":[NaN]}x',
        b'{"events":[NaN],"more":1}',
        b'{"events":[NaN,"\xff"]}',
        b'{"events":' + b"[" * 100_000,
    ],
    ids=lambda body: str(body[:40]),
)
def test_a_body_that_is_no_such_list_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parts(body)
    assert refused.value.code == "malformed_json"


def test_too_many_elements_are_refused_whatever_they_are() -> None:
    with pytest.raises(ApiError, match=f"length <= {MAX_EVENTS}"):
        parts(b'{"events":[' + b"NaN," * MAX_EVENTS + b"1]}")


def test_a_body_of_json_is_decoded_as_ever() -> None:
    assert parts(b'{"events":[1,"a"]}') == [b"1", b'"a"']
    with pytest.raises(ApiError) as refused:
        parts(b'{"events":[1],"more":2}')
    assert (refused.value.code, refused.value.field) == ("invalid_request", "more")
