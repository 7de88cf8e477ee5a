"""Processes that do nothing but live, watched by the real supervisor."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from service.process.supervisor import back_off_s

LIVE = """
import os, signal, sys, time
from service.process.supervisor import supervise
def run(index, promise):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    promise(1.0)
    os.write(1, b"%d %d\\n" % (index, os.getpid()))
    while True:
        promise(1.0)
        time.sleep(0.05)
sys.exit(supervise(2, run))
"""
NEVER_START = """
import sys
from service.process.supervisor import supervise
sys.exit(supervise(2, lambda index, promise: 2))
"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> "subprocess.Popen[str]":
        command, pipe = [sys.executable, "-W", "error", "-c", code], subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def born(process: "subprocess.Popen[str]", number: int) -> dict[int, int]:
    """Index and pid of the next so many workers."""
    assert process.stdout
    lines = [process.stdout.readline().split() for _ in range(number)]
    return {int(index): int(pid) for index, pid in lines}


def said(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=5)[1]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_end_well_when_told_to(start: Start) -> None:
    process = start(LIVE)
    workers = born(process, 2)
    assert workers.keys() == {0, 1}
    process.terminate()
    assert process.wait(5) == 0
    assert not any(map(lives, workers.values()))


def test_ctrl_c_in_a_terminal_is_passed_on_once(start: Start) -> None:
    process = start(LIVE)
    born(process, 2)
    os.killpg(process.pid, signal.SIGINT)
    assert (said(process), process.returncode) == ("", 0)


def test_one_that_is_killed_is_replaced_and_the_other_is_left_alone(start: Start) -> None:
    process = start(LIVE)
    workers = born(process, 2)
    os.kill(workers[1], signal.SIGKILL)
    (replaced,) = born(process, 1).items()
    assert replaced[0] == 1
    assert replaced[1] not in workers.values()
    assert lives(workers[0])
    process.terminate()
    assert process.wait(5) == 0
    assert f"server process 1 (pid {workers[1]}) ended with status -9; another starts in 0.5 s" in said(process)


def test_one_that_stands_still_is_killed_and_replaced(start: Start) -> None:
    process = start(LIVE)
    workers = born(process, 2)
    os.kill(workers[0], signal.SIGSTOP)
    assert born(process, 1).keys() == {0}
    process.terminate()
    assert f"server process 0 (pid {workers[0]}) is stuck: it was killed" in said(process)
    assert process.returncode == 0


def test_a_pause_of_all_is_nobodys_fault(start: Start) -> None:
    process = start(LIVE)
    workers = born(process, 2)
    everyone = [process.pid, *workers.values()]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.6)
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.terminate()
    assert (said(process), process.returncode) == ("", 0)


def test_one_that_ends_before_any_served_ends_all_with_its_status(start: Start) -> None:
    process = start(NEVER_START)
    assert "before any process served: giving up" in said(process)
    assert process.returncode == 2


def test_workers_end_when_nobody_watches_them_any_more(start: Start) -> None:
    process = start(LIVE)
    born(process, 2)
    process.kill()
    assert process.stdout
    assert process.stdout.read() == ""  # and its end, which comes when the last of them has closed it


def test_short_lives_in_a_row_are_followed_by_longer_pauses() -> None:
    assert [back_off_s(n) for n in (0, 1, 2, 3, 7, 9999)] == [0, 0.5, 1, 2, 30, 30]
