"""Bodies to values, and errors that name the field."""

import msgspec
import pytest

from service.api.codec import decode, encode, explain
from service.api.errors import ApiError
from service.api.schemas import RecommendRequest, SimilarRequest

_recommend = msgspec.json.Decoder(RecommendRequest)
_similar = msgspec.json.Decoder(SimilarRequest)


@pytest.mark.parametrize("body", [b'{"num_results": 3}', msgspec.Raw(b'{"num_results": 3}')])
def test_a_body_is_decoded_whole_or_as_part_of_another(body: bytes | msgspec.Raw) -> None:
    assert decode(body, _recommend) == RecommendRequest(num_results=3)


@pytest.mark.parametrize("body", [b"", b"{", b'{"user_id": "\xff"}', b"[" * 100_000, b"{} {}", b"NaN"])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body, msgspec.json.Decoder())
    assert (refused.value.code, refused.value.field) == ("malformed_json", None)
    assert refused.value.message.startswith("the body is not JSON: ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"filter": "cut \\ud83d"}', "\\ud83d is half of a character"),
        (b'{"filter": "\\ude00 cut"}', "\\ude00 is half of a character"),
        (b'{"diversity": NaN}', "NaN is no number of JSON, send null instead"),
        (b'{"diversity": -Infinity}', "-Infinity is no number"),
    ],
)
def test_a_fault_that_many_programs_make_is_explained(body: bytes, reason: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body, _recommend)
    assert refused.value.message.startswith(f"the body is not JSON: {reason}")


def test_null_is_absent_wherever_a_field_may_be_absent() -> None:
    assert decode(encode(dict.fromkeys(RecommendRequest.__struct_fields__)), _recommend) == RecommendRequest()
    event = {"event_type": "v", "timestamp": 10**12, "properties": None, "value": None, "item_id": None}
    assert decode(encode({"events": [event]}), _recommend).events[0].properties == {}
    kept = decode(encode({"events": [event | {"properties": {"a": None}}], "exclude_item_ids": None}), _recommend)
    assert kept.events[0].properties == {"a": None}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"events": [{"event_type": null, "timestamp": 1735689600000}]}', "events[0].event_type"),
        (b'{"exclude_item_ids": [null]}', "exclude_item_ids[0]"),
        (b'{"num_results": null, "user_id": 7}', "user_id"),
    ],
)
def test_null_where_a_value_is_needed_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body, _recommend)
    assert refused.value.field == field


EVENT = b'{"event_type": "v", "timestamp": 1735689600000}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"7", None),
        (b'{"num_results": 0}', "num_results"),
        (b'{"num_result": 1}', "num_result"),
        (b'{"exclude_item_ids": ["a", 1]}', "exclude_item_ids[1]"),
        (b'{"events": [%b, {"event_type": "v"}]}' % EVENT, "events[1].timestamp"),
        (b'{"events": [%b, {"event_type": "v", "timestamp": 5}]}' % EVENT, "events[1].timestamp"),
        (b'{"user_id": "a\\u0000b"}', "user_id"),
        (b'{"explain": true, "num_results": 21}', "explain"),
    ],
)
def test_an_error_names_the_field_by_its_path(body: bytes, field: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body, _recommend)
    assert (refused.value.code, refused.value.field) == ("invalid_request", field)
    assert "`$" not in refused.value.message


def test_an_error_about_two_fields_names_the_first() -> None:
    with pytest.raises(ApiError, match="give either item_id or item") as refused:
        decode(b"{}", _similar)
    assert refused.value.field == "item_id"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Expected `int` - at `$.a.b[3]`", ("Expected `int`", "a.b[3]")),
        ("Expected `object`, got `int`", ("Expected `object`, got `int`", None)),
        ("Expected `object` - at `$`", ("Expected `object`", None)),
        ("Object missing required field `x` - at `$.events[0]`", ("Object missing required field `x`", "events[0].x")),
        ("events[2].item_id: too long - at `$`", ("events[2].item_id: too long", "events[2].item_id")),
    ],
)
def test_a_message_is_told_apart_from_its_path(message: str, expected: tuple[str, str | None]) -> None:
    assert explain(message) == expected


def test_what_is_encoded_can_be_decoded() -> None:
    request = RecommendRequest(user_id="🧦", num_results=7)
    assert decode(encode(request), _recommend) == request
