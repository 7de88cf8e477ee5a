"""A proxy that passes requests on to a server, and does to them what networks and busy servers do."""

import http.client
import time
from collections import deque
from http.server import BaseHTTPRequestHandler
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from service.api.codec import encode
from service.api.errors import ErrorBody, ErrorDetail
from tests.clients.local_server import LocalServer

# What happens to a request. `lost`: the server never sees it. `unheard`: it does, but its answer is lost. `halved`: half of its
# answer arrives. `late`: all of it does, after LATE_S. `refused`: 503 and Retry-After. `slow`: 408, as when the
# body took too long. The others are answers of something else.
Fault = Literal["lost", "unheard", "halved", "late", "refused", "slow", "bad_gateway", "other_json"]
LATE_S = 0.5
REFUSAL = encode(ErrorBody(ErrorDetail(code="overloaded", message="too many requests wait", request_id="r")))
SLOW = encode(ErrorBody(ErrorDetail(code="slow_body", message="the body did not arrive within 10 s", request_id="r")))


class Seen(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    request_id: str
    body: bytes


class Trouble(LocalServer):
    """`faults` happen to the requests that come, one each; then all is well."""

    def __init__(self, server: str) -> None:
        self.faults: deque[Fault] = deque()
        self.retry_after = "7"
        self.seen: list[Seen] = []
        self.num_connections = 0
        self._target = urlsplit(server).netloc
        super().__init__(_Handler, trouble=self)

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the server answers."""
        connection = http.client.HTTPConnection(self._target, timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    trouble: Trouble
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.trouble.num_connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        trouble, headers = self.trouble, {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        trouble.seen.append(Seen(self.command, self.path, headers.get("x-request-id", ""), body))
        fault = trouble.faults.popleft() if trouble.faults else None
        match fault:
            case "refused":
                return self._answer(503, {"content-type": "application/json", "retry-after": trouble.retry_after}, REFUSAL)
            case "slow":
                return self._answer(408, {"content-type": "application/json"}, SLOW)
            case "bad_gateway":
                return self._answer(502, {"content-type": "text/html"}, b"<h1>Bad\ngateway</h1>")
            case "other_json":
                return self._answer(200, {"content-type": "application/json"}, b'{"hits": []}')
        if fault != "lost":
            status, given, answer = trouble.ask(self.command, self.path, headers, body)
        if fault in ("lost", "unheard"):
            self.close_connection = True
            return None
        if fault == "late":
            time.sleep(LATE_S)
        return self._answer(status, given, answer, cut=fault == "halved")

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = _serve

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        kept = {n: v for n, v in headers.items() if n.lower() not in ("content-length", "connection", "date", "server")}
        self.send_response(status)
        for name, value in (kept | {"content-length": str(len(body))}).items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except OSError:  # the client has given up
            self.close_connection = True
        self.close_connection = self.close_connection or cut
