"""Lists of a body whose elements are judged one by one: an element that is not JSON must not spoil the others."""

import json
import re

import msgspec

from service.api.codec import T, decode
from service.api.errors import ApiError

# Python's parser also takes what some clients write though it is not JSON: half of a character, NaN, line breaks in texts.
_lenient = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")


def decode_parts(body: bytes, decoder: msgspec.json.Decoder[T], field: str) -> T:
    """The decoded value, whose only field is a list of undecoded elements; ApiError if the body is no such list.

    An element that is not JSON is in the list as it is, and is refused when it is decoded itself.
    """
    try:
        return decode(body, decoder)
    except ApiError as error:
        parts = _split(body, field) if error.code == "malformed_json" else None
        if parts is None:
            raise
    checked = decode(b'{"%b":[%b]}' % (field.encode(), b",".join([b"0"] * len(parts))), decoder)  # for the number of elements
    elements = [msgspec.Raw(part) for part in parts]
    return msgspec.structs.replace(checked, **{field: elements})  # type: ignore[type-var]


def _split(body: bytes, field: str) -> list[bytes] | None:
    """The elements of the list that is the body's only field; None if the body has another form."""
    try:
        text = body.decode()
        head = re.match(rf'[ \t\r\n]*\{{[ \t\r\n]*"{field}"[ \t\r\n]*:[ \t\r\n]*\[', text)
        parts, at, mark = [], head.end() if head else 0, ","
        while head and mark == ",":
            begin = _after_space(text, at)
            _, end = _lenient.raw_decode(text, begin)
            parts.append(text[begin:end].encode())
            at = _after_space(text, end)
            mark, at = text[at : at + 1], at + 1
    except (ValueError, RecursionError):
        return None
    is_whole = re.fullmatch(r"[ \t\r\n]*\}[ \t\r\n]*", text[at:])
    return parts if head and mark == "]" and is_whole else None


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
