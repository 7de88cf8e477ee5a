"""What a server answers, and what it means that it does not."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from twotower.errors import EnvironmentProblem
from twotower.nightly.servers import Silent, addresses, servers_of


class Answers(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, str | None]] = []  # noqa: RUF012
    status = 200

    def answer(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps({"deleted_events": 3}).encode())

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Answers.asked, Answers.status = [], 200
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_key_goes_with_every_request(url: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("night.SECRET\n")
    (server,) = servers_of((url,), tmp_path / "key")
    server.look()
    assert server.releases() == {"deleted_events": 3}
    assert server.forget("ann/b é") == 3
    assert Answers.asked == [
        ("POST", "/v1/admin/refresh", "Bearer night.SECRET"),
        ("GET", "/v1/releases", "Bearer night.SECRET"),
        ("DELETE", "/v1/users/ann%2Fb%20%C3%A9", "Bearer night.SECRET"),
    ]


def test_a_refused_key_is_the_operators_and_anything_else_may_pass(url: str, tmp_path: Path) -> None:
    (server,) = servers_of((url,), None)
    Answers.status = 401
    with pytest.raises(EnvironmentProblem, match="API key"):
        server.releases()
    Answers.status = 503
    with pytest.raises(Silent, match="answered with status 503"):
        server.releases()
    with pytest.raises(Silent, match="does not answer: Connection refused"):
        servers_of(("http://127.0.0.1:9",), None)[0].releases()
    with pytest.raises(EnvironmentProblem, match="cannot read the API key"):
        servers_of((url,), tmp_path / "nowhere")


def named(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, str]) -> None:
    """Let every name have these addresses."""
    answer = [(family, 1, 6, "", (host, 9000)) for family, host in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)


def test_a_name_stands_for_every_server_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named(monkeypatch, (socket.AF_INET6, "fd00::1"), (socket.AF_INET, "10.0.0.2"), (socket.AF_INET, "10.0.0.1"))
    (tmp_path / "key").write_text("night.SECRET")
    servers = servers_of(("dns+http://servers:9000", "http://other:1"), tmp_path / "key")
    assert [server.url for server in servers] == ["http://10.0.0.1:9000", "http://10.0.0.2:9000", "http://other:1"]
    assert {server.key for server in servers} == {"night.SECRET"}
    named(monkeypatch, (socket.AF_INET6, "fd00::1"))
    assert addresses("dns+http://servers:9000") == ("http://[fd00::1]:9000",)


def test_a_name_without_an_address_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Silent, match=r"dns\+http://servers:9000 names no server: Name or service not known"):
        addresses("dns+http://servers:9000")


def test_localhost_is_asked_where_it_listens(url: str) -> None:
    port = url.rpartition(":")[2]
    (server,) = servers_of((f"dns+http://localhost:{port}",), None)
    assert server.releases() == {"deleted_events": 3}
