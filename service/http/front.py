"""What every request meets first, in pure ASGI: its id, its key, its limits, its count. It serves the hot routes itself.

A request of a hot route never becomes a Request or a Response object: at 50 events these cost more than decoding the body.
"""

from collections.abc import Callable, Sequence
from random import random
from time import perf_counter

from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from service.api.errors import ApiError
from service.http.keys import KeyRing
from service.http.messages import JSON, Headers, check_media_type, declared_length, read_body, refusal, request_id_of
from service.http.route_table import Route, RouteTable, choose
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.trail import TRAIL, Trail

RawHeaders = list[tuple[bytes, bytes]]
Refusal = tuple[int, RawHeaders, bytes]  # status, headers, body
SLOW_S = 0.5  # such a request is always reported
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_AT_THE_DOOR = frozenset({401, 403, 429})
_UNFINISHED = frozenset({408, 413})  # refused while the body was still coming
_TYPE, _LENGTH, _ID, _CLOSE = (b"content-type", JSON), b"content-length", b"x-request-id", (b"connection", b"close")


class Front:
    """The server as ASGI. `reporters` are told of failed, slow and sampled requests once they are answered."""

    def __init__(
        self,
        app: Starlette,
        table: RouteTable,
        settings: Settings,
        metrics: Metrics,
        keys: KeyRing | None = None,
        reporters: Sequence[Callable[[Trail], None]] = (),
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.table, self.keys, self.is_busy = app, table, keys, is_busy
        self.num_in_flight = 0
        self.glanced_at = {path.encode(): route for route in table.routes if route.glance for path in route.paths}
        self._settings, self._metrics, self._reporters = settings, metrics, reporters
        metrics.in_flight.set_function(lambda: self.num_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on the application's start and end."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers: Headers = dict(scope["headers"])
        trail = Trail(request_id_of(headers), perf_counter(), headers.get(b"traceparent", b"").decode("latin-1"))
        TRAIL.set(trail)
        self.num_in_flight += 1
        try:
            private = self._is_private(scope)
            route = self._admit(scope, headers, trail, private)
            if route.admit:
                route.admit()
            if route.hot:
                body = await route.hot(await read_body(receive, headers, self._settings))
                await self._send(send, trail, route.status, [_TYPE], body)
            else:
                scope.setdefault("state", {}).update(request_id=trail.request_id, private=private)
                await self._delegate(scope, receive, send, headers, trail)
        except Exception as error:
            if trail.status:  # the application inside has answered already
                raise
            status, named, body = self._refuse(error, trail)
            await self._send(send, trail, status, named + _farewell(status, headers, self._settings), body)
            if not isinstance(error, ApiError):
                raise
        finally:
            self.num_in_flight -= 1
            self._finish(trail)

    def at_once(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Refusal | None:
        """The refusal of a POST to `glanced_at` for which there is no room; None for one that is to be served as any other.

        It is not even asked for its key: under ten times the load, what a refusal costs is what others do not get.
        """
        route, headers = self.glanced_at[path], dict(raw_headers)
        trail = Trail(request_id_of(headers), perf_counter(), headers.get(b"traceparent", b"").decode("latin-1"))
        trail.method, trail.route = route.method, route.paths[0]
        try:
            check_media_type(headers)
            if route.glance:
                route.glance(body)
        except ApiError as error:
            if error.code == "overloaded":
                trail.status, named, text = self._refuse(error, trail)
                self._finish(trail)
                return trail.status, _whole(named, trail, text), text
        return None

    def _refuse(self, error: Exception, trail: Trail) -> Refusal:
        """What is answered instead; counted and noted."""
        status, extra, body = refusal(error, trail.request_id)
        trail.is_shed = isinstance(error, ApiError) and error.code == "overloaded"
        if status in _AT_THE_DOOR and isinstance(error, ApiError):
            self._metrics.rejected.labels(error.code).inc()
        return status, [(name.encode(), value.encode()) for name, value in extra.items()], body

    def _admit(self, scope: Scope, headers: Headers, trail: Trail, private: bool) -> Route:
        """The route of a request that may be served; ApiError for any other. Who has no key learns of no route."""
        path, method = scope["path"], scope["method"]
        methods = self.table.at(path, private)
        found = methods.get(method)
        trail.method = method if method in _METHODS else "other"
        trail.route = next(iter(methods.values())).paths[0] if methods else "other"
        if self.keys is None or (found and found.scope == "open"):
            return choose(methods, method, path)
        key = self.keys.identify(headers)
        trail.key_id = key.id
        route = choose(methods, method, path)
        self.keys.permit(key, route.scope)
        return route

    def _is_private(self, scope: Scope) -> bool:
        """Whether the request came by the admin port, or there is none."""
        port = self._settings.admin_port
        return port is None or (scope.get("server") or ("", None))[1] == port

    async def _delegate(self, scope: Scope, receive: Receive, send: Send, headers: Headers, trail: Trail) -> None:
        """Let the application inside answer, under the request's id."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                trail.status = message["status"]
                farewell = _farewell(trail.status, headers, self._settings) if trail.status >= 400 else []
                message["headers"] = [*message.get("headers", ()), (_ID, trail.request_id.encode()), *farewell]
            await send(message)

        await self.app(scope, receive, send_with_id)

    @staticmethod
    async def _send(send: Send, trail: Trail, status: int, headers: RawHeaders, body: bytes) -> None:
        trail.status = status
        await send({"type": "http.response.start", "status": status, "headers": _whole(headers, trail, body)})
        await send({"type": "http.response.body", "body": body})

    def _finish(self, trail: Trail) -> None:
        trail.ended_s = perf_counter()
        trail.status = trail.status or 500
        self._metrics.count(trail.method, trail.route, trail.status, trail.duration_s)
        rate = self._settings.log_sample_rate
        if self._reporters and (trail.has_failed or trail.duration_s > SLOW_S or random() < rate):  # noqa: S311 # no secret
            for report in self._reporters:
                report(trail)


def _whole(headers: RawHeaders, trail: Trail, body: bytes) -> RawHeaders:
    return [*headers, (_LENGTH, b"%d" % len(body)), (_ID, trail.request_id.encode())]


def _farewell(status: int, headers: Headers, settings: Settings) -> RawHeaders:
    """Ends the connection where the rest of a refused body may be anything: it would be read, and thrown away, for ever."""
    endless = b"transfer-encoding" in headers or declared_length(headers) > settings.max_body_bytes
    return [_CLOSE] if status in _UNFINISHED or endless else []
