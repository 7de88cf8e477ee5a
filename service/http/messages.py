"""Bodies with limits of size and time, errors as responses, and request ids. No business logic belongs here."""

import asyncio
import re
from collections.abc import Mapping
from random import getrandbits
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.codec import INTERNAL_ERROR, T, decode, encode, explain
from service.api.errors import ApiError, ErrorBody, ErrorDetail
from service.api.parts import decode_parts
from service.api.schemas import AllRejected, check_id
from service.settings import Settings

RawHeaders = list[tuple[bytes, bytes]]
Headers = Mapping[bytes, bytes]  # names in lower case; a header that is sent twice has its last value

S = TypeVar("S", bound=msgspec.Struct)

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


def reply(body: msgspec.Struct) -> Response:
    """A JSON response."""
    return Response(encode(body), media_type="application/json")


def read_query(request: Request, kind: type[S]) -> S:
    """The query parameters of a request; ApiError that names what is wrong and in which parameter."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        message, field = explain(str(error))
        raise ApiError("invalid_request", message, field) from error


async def read_json(request: Request, decoder: msgspec.json.Decoder[T], settings: Settings, parts: str | None = None) -> T:
    """The decoded body; ApiError that names what is wrong and in which field. `parts` is the field as in `decode_parts`."""
    body = await read_body(request.receive, dict(request.scope["headers"]), settings)
    return decode(body, decoder) if parts is None else decode_parts(body, decoder, parts)


async def read_body(receive: Receive, headers: Headers, settings: Settings) -> bytes:
    """The body; ApiError when it is too large, too slow or not uncompressed JSON.

    A body beyond the limit is refused before all of it is in memory.
    """
    check_media_type(headers)
    if declared_length(headers) > settings.max_body_bytes:
        raise _too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise TimeoutError
                body += message.get("body", b"")
                if len(body) > settings.max_body_bytes:
                    raise _too_large(settings)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError("slow_body", f"the body did not arrive within {settings.body_timeout_s:g} s") from None


def check_whole(headers: Headers, body: bytes, settings: Settings) -> None:
    """ApiError when a body that is there is too large or not uncompressed JSON."""
    check_media_type(headers)
    if len(body) > settings.max_body_bytes:
        raise _too_large(settings)


def declared_length(headers: Headers) -> int:
    """Content-Length; 0 when there is none, because the body comes in chunks."""
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() and len(value) < 19 else 0


def _too_large(settings: Settings) -> ApiError:
    return ApiError("body_too_large", f"a body may have at most {settings.max_body_bytes:,} bytes; send several requests")


def check_media_type(headers: Headers) -> None:
    """ApiError unless the body is uncompressed JSON. Compression is refused because a small body could unpack to any size."""
    kind = headers.get(b"content-type", b"")
    if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
        raise ApiError("unsupported_media_type", "send the body as Content-Type: application/json")
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise ApiError("unsupported_media_type", "send the body uncompressed, without Content-Encoding")


def path_id(request: Request, name: str) -> str:
    """The id at the end of the path; ApiError when it is not a valid id."""
    value: str = request.path_params[name]
    try:
        check_id(value)
    except ValueError as error:
        raise ApiError("invalid_request", str(error), name) from error
    return value


def refusal(error: Exception, request_id: str, with_detail: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error. The text of an unexpected error stays in our log, because it is a bug of ours."""
    if not isinstance(error, ApiError):
        error = ApiError("internal", INTERNAL_ERROR)
    headers = {"content-type": "application/json"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    detail = ErrorDetail(code=error.code, message=error.message, request_id=request_id, field=error.field)
    body = AllRejected(error=detail, rejected=list(error.rejected)) if error.rejected else ErrorBody(detail)
    # The client behaviorgpt reads the message in `detail`.
    return error.status, headers, encode(msgspec.structs.asdict(body) | {"detail": error.message} if with_detail else body)


def request_id_of(headers: Headers) -> str:
    """The caller's X-Request-ID if it is safe to write into a log, otherwise a new id."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else fresh_id()


def fresh_id() -> str:
    """A new id of 32 random hexadecimal digits."""
    return f"{getrandbits(128):032x}"  # no secret, so the system need not be asked
