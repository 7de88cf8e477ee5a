"""Bytes in, bytes out: bodies with limits, errors in one shape, request ids and request metrics. No business here."""

import asyncio
import re
import uuid
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RETRY_AFTER_S, ApiError, Code, ErrorBody, ErrorDetail
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")

INTERNAL_ERROR = "the server failed; the request id finds the reason in its log"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_QUOTED_FIELD = re.compile(r"field `(.+?)`")
_OWN_FIELD = re.compile(r"^([a-z_\[\].0-9]+): ")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_encoder = msgspec.json.Encoder()


def reply(body: msgspec.Struct, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(_encoder.encode(body), status, media_type="application/json")


async def read_json(request: Request, decoder: msgspec.json.Decoder[T], settings: Settings) -> T:
    """The body, decoded; ApiError says what is wrong and where."""
    return decode(await read_body(request, settings), decoder)


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, never more than the limit of it in memory; ApiError for one too large, too slow or not plain JSON."""
    check_media_type(request)
    declared = request.headers.get("content-length", "")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            if declared.isdecimal() and len(declared) < 19 and int(declared) > settings.max_body_bytes:
                raise _too_large(settings)
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise _too_large(settings)
    except (TimeoutError, ClientDisconnect):
        raise ApiError("slow_body", f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    return bytes(body)


def _too_large(settings: Settings) -> ApiError:
    return ApiError("body_too_large", f"a body has at most {settings.max_body_bytes:,} bytes; send several")


def check_media_type(request: Request) -> None:
    """ApiError unless the body is uncompressed JSON: a small compressed body could unpack to any size."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError("unsupported_media_type", "send the body as Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError("unsupported_media_type", "send the body uncompressed, without Content-Encoding")


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
    """A validation message without its path, and the field it speaks of as `events[3].item_id`."""
    found = _PATH.search(message)
    path, text = (found[1], message[: found.start()]) if found else ("", message)
    named = _QUOTED_FIELD.search(text) or _OWN_FIELD.match(text)
    return text, ".".join(part for part in (path, named[1] if named else "") if part) or None


def refuse(request: Request, error: Exception) -> Response:
    """Any error as the client sees it. What we did not foresee is a bug: its text stays in our log."""
    match error:
        case ApiError():
            api_error = error
        case HTTPException(status_code=404):
            api_error = ApiError("not_found", f"there is no {request.url.path}; see /docs")
        case HTTPException(status_code=405):
            api_error = ApiError("method_not_allowed", f"{request.url.path} does not answer to {request.method}; see /docs")
        case _:
            api_error = ApiError("internal", INTERNAL_ERROR)
    return refusal(api_error.code, api_error, request.scope.get("state", {}).get("request_id", ""))


def refusal(code: Code, error: ApiError, request_id: str) -> Response:
    """The answer to a refused request."""
    detail = ErrorDetail(code=code, message=error.message, request_id=request_id, field=error.field)
    response = reply(ErrorBody(detail), error.status)
    if error.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


class RequestScope:
    """Pure ASGI around the whole app: gives each request an id and measures it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, label: Callable[[Any], str]) -> None:
        self.app, self.metrics, self.label = app, metrics, label

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 500, perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                method = scope["method"] if scope["method"] in _METHODS else "other"
                duration = self.metrics.requests.labels(method, self.label(scope.get("endpoint")), status)
                duration.observe(perf_counter() - started)


def request_id_of(scope: Scope) -> str:
    """The caller's X-Request-ID when it is harmless in a log, else a fresh one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
