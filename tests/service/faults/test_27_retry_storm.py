import json
import socket
from pathlib import Path

import httpx
import pytest

from tests.service.faults.live_server import Live, head, live
from tests.service.key_files import bearer, entry, write_keys

EVENTS = [{"event_type": "view", "item_id": f"item-{n % 400}", "timestamp": 1_746_000_000_000 + n} for n in range(200)]
BODY = json.dumps({"events": EVENTS, "num_results": 100}).encode()
NUM_SERVED, NUM_REFUSED = 30, 300


@pytest.mark.alone
def test_a_rejection_costs_a_tenth_of_a_success_and_a_storm_of_retries_leaves_nothing_behind(
    tiny_store: Path, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", entry("web", "recommend"), entry("storm", "recommend", rate=0.001, burst=1))
    with live(tiny_store, tmp_path, "--keys", str(keys)) as server:
        ask(server, "storm", 1)  # its quota
        ask(server, "web", 10)
        success_s = cost_s(server, "web", NUM_SERVED, {200})
        rejection_s = cost_s(server, "storm", NUM_REFUSED, {429})
        assert rejection_s < 0.1 * success_s
        assert cost_s(server, "web", NUM_SERVED, {200}) < 2 * success_s
        metrics = httpx.get(f"{server.url}/metrics", headers=bearer("web"))
        assert metrics.status_code == 403


def cost_s(server: Live, key_id: str, count: int, expected: set[int]) -> float:
    """CPU seconds of the server per request."""
    before = server.cpu_s
    assert ask(server, key_id, count) == expected
    return (server.cpu_s - before) / count


def ask(server: Live, key_id: str, count: int) -> set[int]:
    """Statuses of many requests, the next sent as soon as the last is answered."""
    request = head(BODY, more=bearer(key_id)) + BODY
    statuses = set()
    with server.connect() as connection:
        for _ in range(count):
            connection.sendall(request)
            statuses.add(answer(connection))
    return statuses


def answer(connection: socket.socket) -> int:
    """Status of the next answer, read to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    top, _, rest = data.partition(b"\r\n\r\n")
    length = int(top.lower().partition(b"content-length: ")[2].split()[0])
    while len(rest) < length:
        rest += connection.recv(65536)
    return int(top.split()[1])
