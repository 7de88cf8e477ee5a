"""One night's run: it runs commands, keeps their logs, and notes in status.json what each step did."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from twotower.errors import EnvironmentProblem, TwoTowerError
from twotower.nightly.config import Config
from twotower.nightly.status import Night, State, StepStatus, write_night
from twotower.progress import say

STOP_S = 30  # a command that was told to stop is killed after so many seconds
_ERROR = "twotower: error: "

Command = Callable[[Sequence[str], Path], tuple[int, str]]


class Stopped(BaseException):
    """SIGTERM told the run to stop."""


class StepFailed(TwoTowerError):
    """A step that cannot be done. The night ends with it, and what is served stays."""

    def __init__(self, message: str, exit_status: int | None = None) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class StepRefused(StepFailed):
    """A step that worked, and found a release that must not be served."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a step ended well."""

    message: str
    state: State = "done"


@dataclass(slots=True)
class Run:
    """The night at work. `command` runs a command line with the log that its messages go to; tests give one of their own."""

    config: Config
    home: Path  # the folder of the configuration, which paths are relative to
    folder: Path  # of this night
    night: Night
    command: Command
    waits: Callable[[float], None] = field(default=time.sleep)

    @property
    def nights(self) -> Path:
        """The folder of all nights."""
        return self.folder.parent

    @property
    def store(self) -> str:
        """The address of the release store."""
        address = self.config.release.store
        return address if "://" in address else str(self.home / address)

    def path(self, name: str) -> Path:
        """A path of the configuration."""
        return self.home / name

    def twotower(self, *arguments: object) -> str:
        """Run a `twotower` command and return its output; StepFailed with its message when it fails."""
        return self.run([sys.executable, "-m", "twotower.cli", *map(str, arguments)])

    def run(self, line: Sequence[str]) -> str:
        """Run a command line and return its output; StepFailed with its message when it fails."""
        name = next(step.name for step in self.night.steps if step.state == "running")
        log = self.folder / f"{name}.log"
        status, output = self.command(line, log)
        if status:
            told = last_line(log.read_text(errors="replace")) or last_line(output) or f"exit status {status}"
            raise StepFailed(told, status)
        return output

    def do(self, name: str, act: "Callable[[Run], Ended]") -> bool:
        """Do one step, note how it went, and return whether the night goes on."""
        step = self.night.step(name)
        step.state, step.started, step.ended, step.exit_status, step.message = "running", _now(), None, None, ""
        step.refused = False
        write_night(self.night, self.folder)
        try:
            ended = act(self)
        except StepFailed as error:
            step.refused = isinstance(error, StepRefused)
            self._note(step, "failed", str(error), error.exit_status)
            return False
        except (TwoTowerError, ValueError) as error:
            self._note(step, "failed", str(error), None)
            return False
        except (Stopped, KeyboardInterrupt):
            self._note(step, "stopped", "the run was told to stop", None)
            raise
        step.refused = ended.state == "refused"
        self._note(step, ended.state, ended.message, 0)
        return True

    def _note(self, step: StepStatus, state: State, message: str, exit_status: int | None) -> None:
        step.state, step.ended, step.message, step.exit_status = state, _now(), " ".join(message.split()), exit_status
        write_night(self.night, self.folder)
        assert step.started is not None
        seconds = (step.ended - step.started).total_seconds()
        say(f"{self.night.date}  {step.name:<9}{step.state:<8} {seconds:6.1f} s  {step.message}")


def in_subprocess(home: Path, held: int) -> Command:
    """Runs commands as processes in `home`. They hold the descriptor `held` too, so that a lock lasts as long as any of them."""

    def command(line: Sequence[str], log: Path) -> tuple[int, str]:
        words = [sys.executable, "-m", "twotower.cli", *line[1:]] if line[0] == "twotower" else list(line)
        with log.open("ab") as errors:
            try:
                process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, cwd=home, text=True, pass_fds=(held,))
            except OSError as error:
                raise EnvironmentProblem(f"cannot run {words[0]}: {error.strerror or error}") from error
            try:
                output, _ = process.communicate()
            except BaseException:
                _stop(process)
                raise
            errors.write(output.encode())
        return process.returncode, output

    return command


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def stop_on_sigterm() -> None:
    """Let SIGTERM end the run as an operator's Ctrl-C does: the step is noted as stopped."""

    def stop(_: int, __: object) -> None:
        raise Stopped

    if os.name == "posix":
        signal.signal(signal.SIGTERM, stop)


def last_line(text: str) -> str:
    """The last line that says something, without the name of the program."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix(_ERROR) if lines else ""


def _now() -> datetime:
    return datetime.now(UTC)
