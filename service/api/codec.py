"""Decodes JSON into types and encodes types as JSON. A decoding error names the field."""

import re
from typing import Any, TypeVar

import msgspec

from service.api.errors import ApiError

T = TypeVar("T")


INTERNAL_ERROR = "the server failed; its log has the reason under this request id"


_PATH = re.compile(r" - at `\$\.?(.*?)`$")


_QUOTED_FIELD = re.compile(r"field `(.+?)`")


_OWN_FIELD = re.compile(r"^([a-z_\[\].0-9]+): ")


# What programs write though it is not JSON: half of a character beyond U+FFFF, and Python's names of numbers.
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_NO_NUMBER = re.compile(rb"[\[:,]\s*(NaN|-?Infinity)\b")


_encoder = msgspec.json.Encoder()


encode = _encoder.encode


def decode(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded value; ApiError malformed_json, or invalid_request with the path of the field.

    A field that is null counts as absent if it may be absent.
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            if "got `null`" not in str(error):
                raise
            return decoder.decode(_without_nulls(body))
    except msgspec.ValidationError as error:
        message, field = explain(str(error))
        raise ApiError("invalid_request", message, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError("malformed_json", f"the body is not JSON: {_fault(bytes(body)) or error}") from error


def _without_nulls(body: bytes | msgspec.Raw) -> bytes:
    """The body without the fields that are null, its own and those of the objects in its lists."""
    value = msgspec.json.decode(body)
    if not isinstance(value, dict):
        return bytes(body)
    fields = {name: _each_without_nulls(field) for name, field in value.items() if field is not None}
    return encode(fields)


def _each_without_nulls(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{k: v for k, v in element.items() if v is not None} if isinstance(element, dict) else element for element in value]


def _fault(body: bytes) -> str | None:
    """What is wrong with a body, if it is a fault that many programs make."""
    if half := _HALF.search(body):
        return f"{half[0].decode()} is half of a character: a text was cut within an emoji, cut it between whole characters"
    if name := _NO_NUMBER.search(body):
        return f"{name[1].decode()} is no number of JSON, send null instead"
    return None


def explain(message: str) -> tuple[str, str | None]:
    """A validation message without its path, and the field that it is about, such as `events[3].item_id`."""
    found = _PATH.search(message)
    path, text = (found[1], message[: found.start()]) if found else ("", message)
    named = _QUOTED_FIELD.search(text) or _OWN_FIELD.match(text)
    return text, ".".join(part for part in (path, named[1] if named else "") if part) or None
