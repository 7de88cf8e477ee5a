"""The first code that every request meets, in pure ASGI: it gives the request an id, checks its key and limits, and counts it.

It also serves the hot routes itself, without Request and Response objects: at 50 events, making these costs more time than
decoding the body.
"""

from collections.abc import Callable, Sequence
from random import random
from time import perf_counter
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError
from service.http.cors import AllowedOrigins
from service.http.keys import KeyRing
from service.http.messages import JSON, Headers, RawHeaders, check_media_type, declared_length, read_body, refusal, request_id_of
from service.http.route_table import Route, RouteTable, choose
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RECORD, RequestRecord

DECODED = "decoded"  # the key in a request's state under which its body is kept when it was decoded early
SLOW_S = 0.5  # a request that takes longer is always reported
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BEFORE_ROUTING = frozenset({401, 403, 429})
_UNFINISHED = frozenset({408, 413})  # refused while the body was still coming
_TYPE, _LENGTH, _ID, _CLOSE = (b"content-type", JSON), b"content-length", b"x-request-id", (b"connection", b"close")


class Refusal(NamedTuple):
    """The answer to a request that is refused early, before it reaches the application."""

    status: int
    headers: RawHeaders
    body: bytes


class Decoded(NamedTuple):
    """The decoded body of a request that is served; None if the body is not valid."""

    request: Any


class Front:
    """The server as an ASGI application. `reporters` are called with failed, slow and sampled requests after the answer."""

    def __init__(
        self,
        app: ASGIApp,
        table: RouteTable,
        settings: Settings,
        metrics: Metrics,
        keys: KeyRing | None = None,
        reporters: Sequence[Callable[[RequestRecord], None]] = (),
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.table, self.keys, self.is_busy = app, table, keys, is_busy
        self.num_in_flight = 0
        self.refusable = {path.encode(): route for route in table.routes if route.refuse_early for path in route.paths}
        self._settings, self._metrics, self._reporters = settings, metrics, reporters
        self._origins = AllowedOrigins(settings.cors_origins or "")
        metrics.in_flight.set_function(lambda: self.num_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass the lifespan events on to the application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers: Headers = dict(scope["headers"])
        record = RequestRecord(request_id_of(headers), perf_counter(), headers.get(b"traceparent", b"").decode("latin-1"))
        RECORD.set(record)
        self.num_in_flight += 1
        shared = self._origins.of(headers)
        try:
            private = self._is_private(scope)
            if (permit := self._origins.preflight(scope["method"], headers)) is not None:
                record.method = "OPTIONS"
                await self._send(send, record, 200, permit, b"")
                return
            route = self._find(scope, headers, record, private)
            if route.hot:
                as_read = self._origins.as_json(headers) if route.takes_beacons else headers
                body = await read_body(receive, as_read, self._settings)
                answer = await route.hot(self._decoded(route, scope, body))
                await self._send(send, record, route.status, [_TYPE, *shared], answer)
            else:
                scope.setdefault("state", {}).update(request_id=record.request_id, private=private)
                scope["path_params"] = self.table.parameters(route, scope["path"])
                send_noted = self._noting(send, headers, record)
                if route.handler:
                    response = await route.handler(Request(scope, receive))
                    await response(scope, receive, send_noted)
                else:
                    await self.app(scope, receive, send_noted)
        except Exception as error:
            if record.status:  # the inner application has answered already
                raise
            status, named, body = self._refuse(error, record)
            await self._send(send, record, status, named + shared + _farewell(status, headers, self._settings), body)
            if not isinstance(error, ApiError):
                raise
        finally:
            self.num_in_flight -= 1
            self._finish(record)

    def early(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> "Refusal | Decoded":
        """A refusal for a POST to one of `refusable` when there is no room for it, otherwise its decoded body.

        The API key is checked only later. Under heavy overload most requests are refused, and the time that refusals take is lost
        to the other requests, so a refusal must be cheap.
        """
        route, headers = self.refusable[path], dict(raw_headers)
        record = RequestRecord(request_id_of(headers), perf_counter(), headers.get(b"traceparent", b"").decode("latin-1"))
        record.method, record.route = route.method, route.paths[0]
        assert route.decode, "a route that refuses early is hot"
        assert route.refuse_early, "`refusable` holds no other"
        request = None
        try:
            check_media_type(headers)
            with self._metrics.stage("decode"):
                request = route.decode(body)
            route.refuse_early(request)
        except ApiError as error:
            if error.code == "overloaded":
                record.status, named, text = self._refuse(error, record)
                self._finish(record)
                return Refusal(record.status, _whole(named + self._origins.of(headers), record, text), text)
        return Decoded(request)  # None for a bad body, which is then refused in the usual way

    def _decoded(self, route: Route, scope: Scope, body: bytes) -> Any:
        """The body of a hot route, decoded now unless that was done early."""
        if (request := scope.get("state", {}).get(DECODED)) is not None:
            return request
        assert route.decode, "a hot route has a decoder"
        with self._metrics.stage("decode"):
            return route.decode(body)

    def _refuse(self, error: Exception, record: RequestRecord) -> tuple[int, RawHeaders, bytes]:
        """Status, headers and body of the refusal for an error. It is counted and noted on the record."""
        status, extra, body = refusal(error, record.request_id, self._settings.behaviorgpt)
        record.is_shed = isinstance(error, ApiError) and error.code == "overloaded"
        if status in _BEFORE_ROUTING and isinstance(error, ApiError):
            self._metrics.rejected.labels(error.code).inc()
        return status, [(name.encode(), value.encode()) for name, value in extra.items()], body

    def _find(self, scope: Scope, headers: Headers, record: RequestRecord, private: bool) -> Route:
        """The route of a request that may be served, otherwise ApiError.

        The key is checked before the route, so that a caller without a valid key cannot find out which routes exist.
        """
        path, method = scope["path"], scope["method"]
        methods = self.table.at(path, private)
        found = methods.get(method)
        record.method = method if method in _METHODS else "other"
        record.route = next(iter(methods.values())).paths[0] if methods else "other"
        if self.keys is None or (found and found.scope == "open"):
            return choose(methods, method, path)
        key = self.keys.identify(headers)
        record.key_id = key.id
        route = choose(methods, method, path)
        self.keys.permit(key, route.scope)
        return route

    def _is_private(self, scope: Scope) -> bool:
        """Whether the request may use private routes: it came to the admin port, or there is no admin port."""
        port = self._settings.admin_port
        return port is None or (scope.get("server") or ("", None))[1] == port

    def _noting(self, send: Send, headers: Headers, record: RequestRecord) -> Send:
        """A `send` that adds the request's id to a handler's response, and notes its status on the record."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                farewell = _farewell(record.status, headers, self._settings) if record.status >= 400 else []
                added = [(_ID, record.request_id.encode()), *self._origins.of(headers), *farewell]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return send_with_id

    @staticmethod
    async def _send(send: Send, record: RequestRecord, status: int, headers: RawHeaders, body: bytes) -> None:
        record.status = status
        await send({"type": "http.response.start", "status": status, "headers": _whole(headers, record, body)})
        await send({"type": "http.response.body", "body": body})

    def _finish(self, record: RequestRecord) -> None:
        record.ended_s = perf_counter()
        record.status = record.status or 500
        self._metrics.count(record.method, record.route, record.status, record.duration_s)
        rate = self._settings.log_sample_rate
        if self._reporters and (record.has_failed or record.duration_s > SLOW_S or random() < rate):  # noqa: S311 # no secret
            for report in self._reporters:
                report(record)


def _whole(headers: RawHeaders, record: RequestRecord, body: bytes) -> RawHeaders:
    return [*headers, (_LENGTH, b"%d" % len(body)), (_ID, record.request_id.encode())]


def _farewell(status: int, headers: Headers, settings: Settings) -> RawHeaders:
    """The header that closes the connection, for a refused body whose rest may be endless: the server would read all of it."""
    endless = b"transfer-encoding" in headers or declared_length(headers) > settings.max_body_bytes
    return [_CLOSE] if status in _UNFINISHED or endless else []
