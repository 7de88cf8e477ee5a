"""Decodes JSON into types and encodes types as JSON. A decoding error names the field."""

import re
from typing import TypeVar

import msgspec

from service.api.errors import ApiError

T = TypeVar("T")


INTERNAL_ERROR = "the server failed; its log has the reason under this request id"


_PATH = re.compile(r" - at `\$\.?(.*?)`$")


_QUOTED_FIELD = re.compile(r"field `(.+?)`")


_OWN_FIELD = re.compile(r"^([a-z_\[\].0-9]+): ")


_encoder = msgspec.json.Encoder()


encode = _encoder.encode


def decode(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded value; ApiError malformed_json, or invalid_request with the path of the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, field = explain(str(error))
        raise ApiError("invalid_request", message, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError("malformed_json", f"the body is not JSON: {error}") from error


def explain(message: str) -> tuple[str, str | None]:
    """A validation message without its path, and the field that it is about, such as `events[3].item_id`."""
    found = _PATH.search(message)
    path, text = (found[1], message[: found.start()]) if found else ("", message)
    named = _QUOTED_FIELD.search(text) or _OWN_FIELD.match(text)
    return text, ".".join(part for part in (path, named[1] if named else "") if part) or None
