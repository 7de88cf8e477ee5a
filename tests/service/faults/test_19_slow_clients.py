import json
import select
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.service.faults.live_server import BODY, head, live, status_of

NUM_SLOW = 500
pytestmark = pytest.mark.faults


def test_500_clients_that_send_a_byte_now_and_then_are_hung_up_on_and_nobody_else_notices(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_CLIENT_TIMEOUT_S", "2")
    monkeypatch.setenv("TWOTOWER_BODY_TIMEOUT_S", "2")
    with live(tiny_store, tmp_path) as server, httpx.Client(base_url=server.url) as http:
        http.post("/v1/recommend", json={})
        sockets = [server.connect() for _ in range(NUM_SLOW)]
        for index, slow in enumerate(sockets):
            slow.sendall([b"", b"POST /v1/recommend HTTP/1.1\r\n", head() + BODY[:3], head()][index % 4])
        started, slowest_s = time.monotonic(), 0.0
        while time.monotonic() - started < 4.5:
            for index, slow in enumerate(sockets):
                try:
                    slow.send([b"\r\n", b"x", b" ", b""][index % 4])
                except OSError:
                    continue  # hung up on
            asked = time.monotonic()
            assert http.post("/v1/recommend", json={}).status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - asked)
            time.sleep(0.2)
        assert slowest_s < 1.0
        readable, _, _ = select.select(sockets, [], [], 0)
        assert len(readable) == NUM_SLOW  # each has an answer or an end
        assert {status_of(slow) for slow in sockets[:40]} <= {0, 408}
        assert 408 in {status_of(slow) for slow in sockets[42:80:4]}
        for slow in sockets:
            slow.close()


def test_a_head_that_trickles_is_hung_up_on_however_steadily_it_comes(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_CLIENT_TIMEOUT_S", "0.6")
    with live(tiny_store, tmp_path) as server, server.connect() as slow, server.connect() as between:
        between.sendall(head() + BODY)
        assert status_of(between) == 200
        started = time.monotonic()
        for connection in (slow, between):
            connection.setblocking(False)
        ended: set[socket.socket] = set()
        while len(ended) < 2 and time.monotonic() - started < 5:
            for connection, drop in ((slow, b"G"), (between, b"\r\n")):
                try:
                    connection.send(drop)
                    if connection.recv(1) == b"":
                        ended.add(connection)
                except BlockingIOError:
                    continue
                except OSError:
                    ended.add(connection)
            time.sleep(0.05)
        assert len(ended) == 2
        assert time.monotonic() - started < 3


def test_a_client_that_does_not_read_its_answers_is_hung_up_on(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_CLIENT_TIMEOUT_S", "0.6")
    body = json.dumps({"num_results": 400, "include_metadata": ["title", "image"], "timeout_ms": 60_000}).encode()
    with live(tiny_store, tmp_path) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(20)
        deaf.connect(("127.0.0.1", server.port))
        assert not send_steadily(deaf, head(body) + body)
        assert httpx.post(f"{server.url}/v1/recommend", json={}).status_code == 200


def send_steadily(connection: socket.socket, request: bytes) -> bool:
    """Whether the server took 400 requests within 8 s."""
    try:
        for _ in range(400):
            connection.sendall(request)
            time.sleep(0.02)
    except OSError:
        return False
    return True
