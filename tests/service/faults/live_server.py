"""The server as a process, and sockets that speak to it byte by byte."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

RUN = "import sys; from service.command import main; sys.exit(main(sys.argv[1:]))"
BODY = b'{"num_results": 3}'


@dataclass(frozen=True, slots=True)
class Live:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def cpu_s(self) -> float:
        """Of all its threads, to the nanosecond."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks) / 1e9

    @property
    def _tasks(self) -> list[Path]:
        return list(Path(f"/proc/{self.process.pid}/task").iterdir())

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


@contextmanager
def live(store: Path, tmp_path: Path, *arguments: str, stderr: int | IO[bytes] = subprocess.DEVNULL) -> Iterator[Live]:
    """A server process until the block ends."""
    history = ("--history", f"sqlite:///{tmp_path / 'h.db'}")
    command = [sys.executable, "-c", RUN, "--store", str(store), "--port", "0", *history, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        yield Live(process, int(process.stdout.readline().split()[6].rpartition(":")[2]))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def head(body: bytes = BODY, path: str = "/v1/recommend", more: Mapping[str, str] | None = None) -> bytes:
    """A request's head, as bytes."""
    headers = {"host": "shop", "content-type": "application/json", "content-length": str(len(body))} | dict(more or {})
    return b"".join([f"POST {path} HTTP/1.1\r\n".encode(), *(f"{k}: {v}\r\n".encode() for k, v in headers.items() if v), b"\r\n"])


def status_of(connection: socket.socket) -> int:
    """Status of the answer that comes; 0 when the server hangs up without one."""
    try:
        answer = connection.recv(65536)
    except ConnectionResetError:
        return 0
    return int(answer.split()[1]) if answer else 0


def ends(connection: socket.socket) -> bool:
    """Whether the server hangs up once it has said what it has to say; it waits no longer than the connection's timeout."""
    while connection.recv(65536):
        pass
    return True
