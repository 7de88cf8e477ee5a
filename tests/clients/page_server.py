"""A web site for tests in a browser: it serves pages, and keeps what they report."""

import json
import queue
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.clients.local_server import LocalServer


class PageServer(LocalServer):
    """Serves `pages` by their path. A page reports by a POST of JSON to `/report`."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, str]] = {}  # path -> content type and text
        self.reports: queue.Queue[Any] = queue.Queue()
        super().__init__(_Handler, site=self)


class _Handler(BaseHTTPRequestHandler):
    site: PageServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind, text = self.site.pages.get(self.path.partition("?")[0], ("text/plain", ""))
        self.send_response(200 if text else 404)
        self.send_header("content-type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        self.site.reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()
