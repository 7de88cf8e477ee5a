"""The first code that every request meets, in pure ASGI: it gives the request an id, checks its key and limits, and counts it.

It also answers the hot routes itself, from bytes to bytes: at 50 events, the objects of ASGI and Starlette cost more time than
decoding the body.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from random import random
from time import perf_counter
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError
from service.http.cors import AllowedOrigins
from service.http.keys import KeyRing
from service.http.messages import JSON, Headers, RawHeaders, check_whole, declared_length, read_body, refusal, request_id_of
from service.http.route_table import Route, RouteTable, choose
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RECORD, RequestRecord

SLOW_S = 0.5  # a request that takes longer is always reported
_log = logging.getLogger(__name__)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BEFORE_ROUTING = frozenset({401, 403, 429})
_UNFINISHED = frozenset({408, 413})  # refused while the body was still coming
_TYPE, _LENGTH, _ID, _CLOSE = (b"content-type", JSON), b"content-length", b"x-request-id", (b"connection", b"close")


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: RawHeaders
    body: bytes


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
        self.hot = {path.encode(): route for route in table.routes if route.hot for path in route.paths}
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
        record = _record(headers)
        RECORD.set(record)
        self.num_in_flight += 1
        shared = self._origins.of(headers)
        try:
            private = self._is_private(scope)
            if (permit := self._origins.preflight(scope["method"], headers)) is not None:
                record.method = "OPTIONS"
                await self._send(send, record, 200, permit, b"")
                return
            route = self._find(scope["method"], scope["path"], headers, record, private)
            if route.hot:
                as_read = self._origins.as_json(headers) if route.takes_beacons else headers
                body = await read_body(receive, as_read, self._settings)
                answer = await route.hot(self._decoded(route, body))
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

    def answer(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer to a POST of one of `hot` whose body is there; a refusal for lack of room is given at once.

        The API key is checked after that: under heavy overload most requests are refused, and the time that refusals take is
        lost to the other requests, so a refusal must be cheap.
        """
        route, headers, request = self.hot[path], dict(raw_headers), None
        if route.refuse_early and self.is_busy():
            try:
                check_whole(headers, body, self._settings)
                request = self._decoded(route, body)
                route.refuse_early(request)
            except ApiError as error:
                if error.code == "overloaded":
                    record = _record(headers)
                    record.method, record.route = route.method, route.paths[0]
                    refused = self._refused(error, record, headers)
                    self._finish(record)
                    return refused
        return self._answer(route, path.decode(), headers, body, request)

    async def _answer(self, route: Route, path: str, headers: Headers, body: bytes, request: Any) -> Answer:
        """The answer of a hot route. `request` is its body if that is decoded already."""
        record = _record(headers)
        RECORD.set(record)
        self.num_in_flight += 1
        try:
            self._find("POST", path, headers, record, private=False)
            as_read = self._origins.as_json(headers) if route.takes_beacons else headers
            check_whole(as_read, body, self._settings)
            assert route.hot, "only hot routes are answered here"
            text = await route.hot(self._decoded(route, body) if request is None else request)
            record.status = route.status
            return Answer(route.status, _whole([_TYPE, *self._origins.of(headers)], record, text), text)
        except Exception as error:
            if not isinstance(error, ApiError):
                _log.exception("request %s failed", record.request_id)
            return self._refused(error, record, headers)
        finally:
            self.num_in_flight -= 1
            self._finish(record)

    def _decoded(self, route: Route, body: bytes) -> Any:
        """The body of a hot route, decoded."""
        assert route.decode, "a hot route has a decoder"
        with self._metrics.stage("decode"):
            return route.decode(body)

    def _refused(self, error: Exception, record: RequestRecord, headers: Headers) -> Answer:
        record.status, named, text = self._refuse(error, record)
        farewell = _farewell(record.status, headers, self._settings)
        return Answer(record.status, _whole(named + self._origins.of(headers) + farewell, record, text), text)

    def _refuse(self, error: Exception, record: RequestRecord) -> tuple[int, RawHeaders, bytes]:
        """Status, headers and body of the refusal for an error. It is counted and noted on the record."""
        status, extra, body = refusal(error, record.request_id, self._settings.behaviorgpt)
        record.is_shed = isinstance(error, ApiError) and error.code == "overloaded"
        if status in _BEFORE_ROUTING and isinstance(error, ApiError):
            self._metrics.rejected.labels(error.code).inc()
        return status, [(name.encode(), value.encode()) for name, value in extra.items()], body

    def _find(self, method: str, path: str, headers: Headers, record: RequestRecord, private: bool) -> Route:
        """The route of a request that may be served, otherwise ApiError.

        The key is checked before the route, so that a caller without a valid key cannot find out which routes exist.
        """
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


def _record(headers: Headers) -> RequestRecord:
    return RequestRecord(request_id_of(headers), perf_counter(), headers.get(b"traceparent", b"").decode("latin-1"))


def _whole(headers: RawHeaders, record: RequestRecord, body: bytes) -> RawHeaders:
    return [*headers, (_LENGTH, b"%d" % len(body)), (_ID, record.request_id.encode())]


def _farewell(status: int, headers: Headers, settings: Settings) -> RawHeaders:
    """The header that closes the connection, for a refused body whose rest may be endless: the server would read all of it."""
    endless = b"transfer-encoding" in headers or declared_length(headers) > settings.max_body_bytes
    return [_CLOSE] if status in _UNFINISHED or endless else []
