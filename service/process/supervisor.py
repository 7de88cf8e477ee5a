"""The supervisor of several server processes that share one listening socket. It starts, watches, restarts and ends them.

It is a small process that never imports torch, so that forking is cheap and safe at any time. The server processes share the
socket itself, not only the port as with SO_REUSEPORT. So there is one queue of new connections: a stuck process gets none of
them, a process that dies loses none of them, and a port that another program uses is still refused.
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

Promise = Callable[[float], None]  # a worker's promise to call again within so many seconds
Run = Callable[[int, Promise], int]  # index of the worker -> exit status

TO_LEAVE = frozenset({signal.SIGTERM, signal.SIGINT})
SIGNALS = TO_LEAVE | {signal.SIGCHLD}
_LOOK_S, _LATE_S = 0.25, 1.0
_STEADY_S = 10.0  # a worker that ran for so long is restarted at once
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.5, 30.0


@dataclass(slots=True)
class Worker:
    """One worker: its process, or the time to start the next one."""

    index: int
    pid: int = 0  # 0: there is no process now
    started_s: float = 0.0
    due_s: float = 0.0  # when to start the next process
    num_short_lives: int = 0  # processes in a row that ended within `_STEADY_S`

    def __str__(self) -> str:
        return f"server process {self.index} (pid {self.pid})"

    def bury(self, now_s: float) -> None:
        """Note that the process has ended, and choose when to start the next one."""
        self.num_short_lives = 0 if now_s - self.started_s >= _STEADY_S else self.num_short_lives + 1
        self.pid, self.due_s = 0, now_s + back_off_s(self.num_short_lives)


def back_off_s(num_short_lives: int) -> float:
    """Seconds to wait before the next start."""
    exponent = min(num_short_lives - 1, 16)  # large enough for the longest pause, and small enough for a float
    return min(_BACK_OFF_S * 2**exponent, _LONGEST_BACK_OFF_S) if num_short_lives else 0.0


def supervise(num_workers: int, run: Run) -> int:
    """Keep `num_workers` processes running `run` until SIGTERM or SIGINT; returns 0 when all of them ended well.

    This also returns in each of the workers, with the result of `run`. A worker counts as started after its first promise, and is
    killed when it breaks a promise. When a worker ends before it has started, and no other worker serves, all are ended and
    this returns its status.
    """
    assert "torch" not in sys.modules, "its threads do not survive a fork"
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # only sigtimedwait receives them, so none interrupts other code
    supervisor, looked_s, forgiving_until_s = _Supervisor(num_workers), monotonic(), 0.0
    while not supervisor.is_done:
        for worker in supervisor.due():
            if not supervisor.fork(worker):
                return run(worker.index, supervisor.promise_of(worker))
        caught = signal.sigtimedwait(SIGNALS, _LOOK_S)
        if caught is not None and caught.si_signo in TO_LEAVE:  # after SIGCONT the signal number may be missing
            supervisor.end(caught.si_signo, 0)
        if monotonic() - looked_s > _LATE_S:  # we stood still, perhaps with the whole machine: forgive broken promises
            forgiving_until_s = monotonic() + _LATE_S
        looked_s = monotonic()
        if looked_s > forgiving_until_s:
            supervisor.kill_the_silent(looked_s)
        supervisor.reap(looked_s)
    return supervisor.status or 0


class _Supervisor:
    """The workers, and until when each has promised to call again."""

    def __init__(self, num_workers: int) -> None:
        self.pid = os.getpid()
        self.status: int | None = None  # the exit status once all workers are to end; None before
        self._workers = [Worker(index) for index in range(num_workers)]
        # In memory that the workers share: when each worker's promise ends; 0 for a worker that has not served yet.
        self._promised_s = memoryview(mmap.mmap(-1, 8 * num_workers)).cast("d")

    @property
    def is_done(self) -> bool:
        return self.status is not None and not self._running()

    def due(self) -> list[Worker]:
        """Workers whose process is to be started now."""
        return [w for w in self._workers if not w.pid and w.due_s <= monotonic()] if self.status is None else []

    def fork(self, worker: Worker) -> int:
        """Start the worker's process. Returns its pid, and 0 inside the new process."""
        self._promised_s[worker.index], worker.started_s = 0.0, monotonic()
        worker.pid = os.fork()
        if not worker.pid:
            os.setpgid(0, 0)  # Ctrl-C reaches only the supervisor, which passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return worker.pid

    def promise_of(self, worker: Worker) -> Promise:
        """The function with which a worker shows that it is alive. The worker calls it in its own process."""

        def promise(seconds: float) -> None:
            self._promised_s[worker.index] = monotonic() + seconds
            if os.getppid() != self.pid:  # the supervisor is gone: nobody would end or replace this worker
                signal.raise_signal(signal.SIGTERM)

        return promise

    def end(self, number: int, status: int) -> None:
        """Pass a signal on to the workers, and start none from now on."""
        self.status = self.status or status
        for worker in self._running():
            os.kill(worker.pid, number)

    def kill_the_silent(self, now_s: float) -> None:
        """Kill every worker that has broken its promise."""
        for worker in self._running():
            if 0 < self._promised_s[worker.index] < now_s:
                _tell(f"{worker} is stuck: it was killed")
                os.kill(worker.pid, signal.SIGKILL)
                self._promised_s[worker.index] = math.inf

    def reap(self, now_s: float) -> None:
        """Find the workers whose processes have ended, and restart them or end all."""
        for worker in self._running():
            pid, raw = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(raw), now_s)

    def _ended(self, worker: Worker, status: int, now_s: float) -> None:
        name, serves = str(worker), any(self._promised_s)
        self._promised_s[worker.index] = 0.0
        worker.bury(now_s)
        if self.status is not None:
            # A worker that does not serve yet has no handler for SIGTERM, so the signal itself ends it.
            self.status = self.status or int(status not in (0, -signal.SIGTERM))
        elif serves:
            _tell(f"{name} ended with status {status}; another starts in {worker.due_s - now_s:g} s")
        else:
            _tell(f"{name} ended with status {status} before any process served: giving up")
            self.end(signal.SIGTERM, max(status, 1))

    def _running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.pid]


def _tell(line: str) -> None:
    with suppress(OSError):  # a full disk or a closed pipe must not end the processes
        say(line)
