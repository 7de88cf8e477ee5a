"""Row 35: the file of user states: kept over a restart, useless after damage, and no answer depends on it."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.release.loaded import LoadedRelease
from service.states.state_file import FILE
from service.users_command import main
from tests.service.faults.processes import Running, serving

USERS = [f"user-{number}" for number in range(20)]
MOMENT = 1_746_057_600_000


@pytest.fixture
def item_ids(release: LoadedRelease) -> list[str]:
    return release.item_ids


def told(server: Running, item_ids: Sequence[str]) -> None:
    rng = random.Random(0)
    events = [
        {"user_id": user, "event_type": "view", "item_id": rng.choice(item_ids), "timestamp": MOMENT - 1000 * n}
        for user in USERS
        for n in range(40)
    ]
    answer = httpx.post(f"{server.address}/v1/events", json={"events": events}, timeout=20.0)
    assert answer.json()["accepted"] == len(events)


def answers(server: Running) -> list[list[tuple[str, float]]]:
    found = []
    for user in USERS:
        body = {"user_id": user, "timestamp": MOMENT + 1}
        items: list[dict[str, Any]] = httpx.post(f"{server.address}/v1/recommend", json=body, timeout=20.0).json()["items"]
        found.append([(item["item_id"], item["score"]) for item in items])
    return found


def count(server: Running, outcome: str) -> float:
    name = f'twotower_user_cache{{outcome="{outcome}"}} '
    lines = httpx.get(f"{server.address}/metrics", timeout=20.0).text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).removeprefix(name))


def check_same(found: list[list[tuple[str, float]]], expected: list[list[tuple[str, float]]]) -> None:
    assert [[item_id for item_id, _ in items] for items in found] == [[item_id for item_id, _ in items] for items in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)


def test_users_that_were_warmed_ahead_are_not_read_in_their_first_request(
    tiny_store: Path, tmp_path: Path, item_ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "history.db"
    with serving(tiny_store, history) as server:
        told(server, item_ids)
        expected = answers(server)
    options = ["--history", f"sqlite:///{history}", "--store", str(tiny_store), "--directory", str(tmp_path / "states")]
    for num_events in (40 * len(USERS), 0):
        assert main(["warm", *options, "--days", "100000"]) == 0
        assert f"20 users are in the file, {num_events} events were read" in capsys.readouterr().out
    with serving(tiny_store, history, user_cache_dir=tmp_path / "states", verify_share=1.0) as server:
        check_same(answers(server), expected)
        assert [count(server, name) for name in ("restored", "failures")] == [len(USERS), 0]


@pytest.mark.parametrize("engine", ["thread", pytest.param("process", marks=pytest.mark.faults)])
def test_after_a_restart_no_history_is_read_anew(tiny_store: Path, tmp_path: Path, item_ids: list[str], engine: str) -> None:
    start = partial(serving, tiny_store, tmp_path / "history.db", "--engine", engine)
    with start(user_cache_dir=tmp_path / "states", verify_share=1.0) as server:
        told(server, item_ids)
        expected = answers(server)
        assert server.end(signal.SIGTERM) == 0
    with start(user_cache_dir=tmp_path / "states", verify_share=1.0) as server:
        check_same(answers(server), expected)
        assert count(server, "restored") == len(USERS)
        assert (count(server, "unreadable"), count(server, "failures")) == (0, 0)
        assert count(server, "misses") == 5, "those of the warm-up, which have no user"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    rng, result = random.Random(1), bytearray(content)
    for _ in range(200):
        result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)
    return bytes(result)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", lambda content: b"\0" * len(content)])
def test_a_damaged_file_costs_histories_and_changes_no_answer(
    tiny_store: Path, tmp_path: Path, item_ids: list[str], damage: Callable[[bytes], bytes]
) -> None:
    with serving(tiny_store, tmp_path / "history.db", user_cache_dir=tmp_path / "states") as server:
        told(server, item_ids)
        expected = answers(server)
        assert server.end(signal.SIGTERM) == 0
    file = tmp_path / "states" / FILE
    file.write_bytes(damage(file.read_bytes()))
    with serving(tiny_store, tmp_path / "history.db", user_cache_dir=tmp_path / "states") as server:
        check_same(answers(server), expected)
        assert count(server, "restored") < len(USERS)
        assert server.end(signal.SIGTERM) == 0


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tiny_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = f"sqlite:///{tmp_path}/history.db"
    command = [sys.executable, "-m", "twotower.cli", "serve", "--store", str(tiny_store), "--history", history, "--port", "0"]
    environment = os.environ | {"TWOTOWER_USER_CACHE_DIR": str(tmp_path / "file" / "states")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "Choose a directory that can be written to." in done.stderr
