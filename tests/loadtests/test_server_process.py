import os
import sys
import time
from pathlib import Path

import pytest

from loadtests.server_process import CORES, pinned, running

SERVER = """
import http.server, subprocess, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"items": [], "release": "r"}')

subprocess.Popen([sys.executable, "-c", "while True: pass"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def test_a_server_is_counted_and_ended_with_what_it_started(tmp_path: Path) -> None:
    with running(lambda port: [sys.executable, "-c", SERVER, str(port)], tmp_path / "log") as server:
        assert server.release() == "r"
        assert os.sched_getaffinity(server.process.pid) == set(CORES[:1])
        (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        before, deadline = server.cpu_s, time.monotonic() + 30
        while server.cpu_s < before + 0.1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for _ in range(100):
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child is still there")


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room for me')"]
    with pytest.raises(SystemExit, match="no room for me"), running(lambda _: command, tmp_path / "log"):
        pass


def test_pinning_ends_with_its_block() -> None:
    before = os.sched_getaffinity(0)
    with pinned(CORES[:1]):
        assert os.sched_getaffinity(0) == set(CORES[:1])
    assert os.sched_getaffinity(0) == before
