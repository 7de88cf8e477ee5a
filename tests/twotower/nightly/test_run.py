"""A run keeps what commands say, notes how steps ended, and holds its lock as long as any of its commands."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.twotower.nightly.conftest import Commands
from twotower.errors import DataError, EnvironmentProblem, StoreError
from twotower.nightly.command import LOCK, only_run
from twotower.nightly.run import Ended, Run, Stopped, in_subprocess, last_line, stop_on_sigterm
from twotower.nightly.status import read_night


def test_a_step_is_noted_before_and_after(run: Run) -> None:
    def act(run: Run) -> Ended:
        night = read_night(run.folder)
        assert night is not None
        assert night.step("ingest").state == "running"
        return Ended("one\nand two", "skipped")

    assert run.do("ingest", act)
    night = read_night(run.folder)
    assert night is not None
    step = night.step("ingest")
    assert (step.state, step.exit_status, step.message) == ("skipped", 0, "one and two")
    assert step.started is not None
    assert step.ended is not None
    assert step.started <= step.ended


def test_a_command_that_fails_ends_the_step_with_its_last_line(run: Run, commands: Commands) -> None:
    commands.answers = {"embed": (2, "not published: recall is .1")}
    assert not run.do("embed", lambda run: Ended(run.twotower("embed", "--json")))
    step = run.night.step("embed")
    assert (step.state, step.exit_status, step.message) == ("failed", 2, "not published: recall is .1")


def test_wrong_input_ends_the_step_and_a_bug_is_shown(run: Run) -> None:
    def refuse(_: Run) -> Ended:
        raise DataError("no column user_id")

    assert not run.do("validate", refuse)
    assert run.night.step("validate").message == "no column user_id"
    with pytest.raises(ZeroDivisionError):
        run.do("train", lambda _: Ended(str(1 // 0)))


def test_a_process_answers_with_its_output_and_its_log(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        command = in_subprocess(tmp_path, lock.fileno())
        script = "import sys, os; print('out'); print('twotower: error: it is', os.getcwd(), file=sys.stderr); sys.exit(3)"
        assert command([sys.executable, "-c", script], tmp_path / "log") == (3, "out\n")
        assert last_line((tmp_path / "log").read_text().partition("out")[0]) == f"it is {tmp_path}"
        with pytest.raises(EnvironmentProblem, match="cannot run nowhere"):
            command(["nowhere"], tmp_path / "log")


def test_sigterm_stops_the_command_and_is_noted(run: Run, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm()
    try:
        with (tmp_path / "lock").open("w") as lock:
            run.command = in_subprocess(tmp_path, lock.fileno())
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            began = time.monotonic()
            with pytest.raises(Stopped):
                run.do("train", lambda run: Ended(run.run(["sleep", "60"])))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - began < 30
    assert run.night.step("train").state == "stopped"


def test_the_lock_lasts_as_long_as_a_command_that_a_killed_run_left(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from twotower.nightly.command import only_run; "
        "from twotower.nightly.run import in_subprocess\n"
        "with only_run(Path(sys.argv[1])) as held:\n"
        "    in_subprocess(Path(sys.argv[1]), held)(['sh', '-c', 'echo $$ > pid; exec sleep 60'], Path(sys.argv[1]) / 'log')"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    with pytest.raises(StoreError, match="or a step that one left behind, is at work"), only_run(tmp_path):
        pass
    os.kill(int(pid.read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        try:
            with only_run(tmp_path):
                break
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert (tmp_path / LOCK).exists()
