import gzip
import socket
from pathlib import Path

import httpx
import pytest

from tests.service.faults.live_server import ends, head, live, status_of

MANY_MIB = 64
pytestmark = pytest.mark.faults


def flood(connection: socket.socket, chunk: bytes, count: int) -> None:
    """Send until the server hangs up."""
    try:
        for _ in range(count):
            connection.sendall(chunk)
    except OSError:
        return


def test_no_body_costs_more_memory_than_its_limit(tiny_store: Path, tmp_path: Path) -> None:
    mebibyte = b" " * (1 << 20)
    chunk = b"%x\r\n%b\r\n" % (len(mebibyte), mebibyte)
    with live(tiny_store, tmp_path) as server:
        httpx.post(f"{server.url}/v1/recommend", json={})
        before_mib = server.rss_mib
        for path in ("/v1/recommend", "/v1/events", "/v1/similar"):
            with server.connect() as bomb:
                bomb.sendall(head(path=path, more={"content-length": "", "transfer-encoding": "chunked"}))
                flood(bomb, chunk, MANY_MIB)
            with server.connect() as declared:
                declared.sendall(head(path=path, more={"content-length": str(10**15)}))
                assert status_of(declared) == 413
                assert ends(declared)  # the rest is not waited for
        assert server.rss_mib - before_mib < 16
        assert httpx.post(f"{server.url}/v1/recommend", json={}).status_code == 200


def test_a_length_that_lies_ends_in_a_refusal(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_BODY_TIMEOUT_S", "0.4")
    with live(tiny_store, tmp_path) as server:
        with server.connect() as short:
            short.sendall(head(more={"content-length": "1000"}) + b"{}")
            assert status_of(short) == 408
            assert ends(short)
        with server.connect() as long:
            long.sendall(head(b"{}") + b"{}GET /v1/users/ann HTTP/1.1 nonsense\r\n\r\n")
            assert status_of(long) in (200, 400)
        for wrong in ("-1", "1e3", "0x10", "9" * 40, "2, 3"):
            with server.connect() as odd:
                odd.sendall(head(more={"content-length": wrong}) + b"{}")
                assert status_of(odd) in (400, 413)
        with server.connect() as both:  # what request smuggling is made of
            both.sendall(head(b"{}", more={"transfer-encoding": "chunked"}) + b"2\r\n{}\r\n0\r\n\r\n")
            assert status_of(both) == 400
        assert httpx.post(f"{server.url}/v1/recommend", json={}).status_code == 200


def test_a_compressed_body_is_not_unpacked(tiny_store: Path, tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    with live(tiny_store, tmp_path) as server:
        before_mib = server.rss_mib
        for coding in ("gzip", "deflate", "br", "zstd"):
            headers = {"content-type": "application/json", "content-encoding": coding}
            for path in ("/v1/recommend", "/v1/events", "/v1/similar"):
                assert httpx.post(server.url + path, content=bomb, headers=headers).status_code == 415
        assert server.rss_mib - before_mib < 16
