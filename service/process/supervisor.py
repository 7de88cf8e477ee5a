"""Several server processes behind one listening socket: started, watched, started again, ended together.

They are forked from a small process that never imports torch, so that a fork is cheap and safe at any time. They share the
socket, not only the port (SO_REUSEPORT): what waits to be accepted waits in one queue, so that a process that is stuck is
handed nothing, one that dies takes nothing along, and a port in use is refused as ever.
"""

import math
import mmap
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from twotower.progress import say

Promise = Callable[[float], None]  # "I shall be heard of again within so many seconds"
Run = Callable[[int, Promise], int]  # index of the worker -> exit status

TO_LEAVE = frozenset({signal.SIGTERM, signal.SIGINT})
SIGNALS = TO_LEAVE | {signal.SIGCHLD}
_LOOK_S, _LATE_S = 0.25, 1.0
_STEADY_S = 10.0  # who lived so long is started again at once
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.5, 30.0


@dataclass(slots=True)
class Worker:
    """One process, or the place of one that is to be started."""

    index: int
    pid: int = 0  # 0: none
    started_s: float = 0.0
    due_s: float = 0.0  # when to start the next
    num_short_lives: int = 0  # in a row

    def __str__(self) -> str:
        return f"server process {self.index} (pid {self.pid})"

    def bury(self, now_s: float) -> None:
        """It has ended: choose when the next begins."""
        self.num_short_lives = 0 if now_s - self.started_s >= _STEADY_S else self.num_short_lives + 1
        self.pid, self.due_s = 0, now_s + back_off_s(self.num_short_lives)


def back_off_s(num_short_lives: int) -> float:
    """How long to wait before the next start."""
    exponent = min(num_short_lives - 1, 16)  # beyond the longest pause, and within what a float holds
    return min(_BACK_OFF_S * 2**exponent, _LONGEST_BACK_OFF_S) if num_short_lives else 0.0


def supervise(num_workers: int, run: Run) -> int:
    """Keep so many processes running `run` until SIGTERM or SIGINT; 0 when all of them ended well.

    In each of those processes it returns what `run` returned. A worker counts as started with its first promise, and is
    killed when it breaks one. When one ends before that while no other serves, all end with its status.
    """
    assert "torch" not in sys.modules, "its threads do not survive a fork"
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are waited for, so that none comes at a bad moment
    supervisor, looked_s, forgiving_until_s = _Supervisor(num_workers), monotonic(), 0.0
    while not supervisor.is_done:
        for worker in supervisor.due():
            if not supervisor.fork(worker):
                return run(worker.index, supervisor.promise_of(worker))
        caught = signal.sigtimedwait(SIGNALS, _LOOK_S)
        if caught is not None and caught.si_signo in TO_LEAVE:  # after SIGCONT it names none at all
            supervisor.end(caught.si_signo, 0)
        if monotonic() - looked_s > _LATE_S:  # all stood still, and every broken promise is to be forgiven
            forgiving_until_s = monotonic() + _LATE_S
        looked_s = monotonic()
        if looked_s > forgiving_until_s:
            supervisor.kill_the_silent(looked_s)
        supervisor.reap(looked_s)
    return supervisor.status or 0


class _Supervisor:
    """The workers, and what they promised."""

    def __init__(self, num_workers: int) -> None:
        self.pid = os.getpid()
        self.status: int | None = None  # once all are to end
        self._workers = [Worker(index) for index in range(num_workers)]
        # Shared with them: until when each needs not be heard of, 0 for one that has not served yet.
        self._promised_s = memoryview(mmap.mmap(-1, 8 * num_workers)).cast("d")

    @property
    def is_done(self) -> bool:
        return self.status is not None and not self._running()

    def due(self) -> list[Worker]:
        """Workers to be started now."""
        return [w for w in self._workers if not w.pid and w.due_s <= monotonic()] if self.status is None else []

    def fork(self, worker: Worker) -> int:
        """Start a worker; 0 in its process."""
        self._promised_s[worker.index], worker.started_s = 0.0, monotonic()
        worker.pid = os.fork()
        if not worker.pid:
            os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone, which passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return worker.pid

    def promise_of(self, worker: Worker) -> Promise:
        """How a worker says that it lives; called in its process."""

        def promise(seconds: float) -> None:
            self._promised_s[worker.index] = monotonic() + seconds
            if os.getppid() != self.pid:  # nobody would end or replace it
                signal.raise_signal(signal.SIGTERM)

        return promise

    def end(self, number: int, status: int) -> None:
        """Pass a signal on; no worker is started any more."""
        self.status = self.status or status
        for worker in self._running():
            os.kill(worker.pid, number)

    def kill_the_silent(self, now_s: float) -> None:
        """End who was not heard of for longer than promised."""
        for worker in self._running():
            if 0 < self._promised_s[worker.index] < now_s:
                _tell(f"{worker} does not move any more: killed")
                os.kill(worker.pid, signal.SIGKILL)
                self._promised_s[worker.index] = math.inf

    def reap(self, now_s: float) -> None:
        """See who has ended, and what follows from it."""
        for worker in self._running():
            pid, raw = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(raw), now_s)

    def _ended(self, worker: Worker, status: int, now_s: float) -> None:
        name, serves = str(worker), any(self._promised_s)
        self._promised_s[worker.index] = 0.0
        worker.bury(now_s)
        if self.status is not None:
            # SIGTERM itself ends a worker that has not begun to serve.
            self.status = self.status or int(status not in (0, -signal.SIGTERM))
        elif serves:
            _tell(f"{name} ended with status {status}; another starts in {worker.due_s - now_s:g} s")
        else:
            _tell(f"{name} ended with status {status} before any served: giving up")
            self.end(signal.SIGTERM, max(status, 1))

    def _running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.pid]


def _tell(line: str) -> None:
    with suppress(OSError):  # a full disk or a closed pipe must not end the processes
        say(line)
