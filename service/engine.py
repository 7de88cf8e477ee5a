"""One thread that owns all model work. Requests wait in a queue, bounded in length; each is worked on alone."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import faiss
import torch

from service.errors import ApiError

T = TypeVar("T")

_BEAT_S = 0.25  # how long an idle engine sleeps before it shows that it lives


@dataclass(frozen=True, slots=True)
class _Work:
    future: Future[Any]
    run: Callable[[], Any]
    deadline_s: float  # of time.monotonic


class Engine:
    """Runs callables in order on its own thread."""

    def __init__(self, num_threads: int, max_queued: int) -> None:
        self._num_threads = num_threads
        self._queue: queue.Queue[_Work | None] = queue.Queue(max_queued)
        self._pending: set[Future[Any]] = set()
        self._lost: ApiError | None = None
        self._beat_s = monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is queued, then stop; a lost engine is left to itself."""
        if self._lost is None:
            self._queue.put(None)
            self._thread.join()

    def trouble(self, limit_s: float) -> str | None:
        """What is wrong with the thread: it ended, or has not moved for so long."""
        if not self._thread.is_alive():
            return "the engine has ended"
        age_s = self.heartbeat_age_s
        return f"the engine has not moved for {age_s:.1f} s" if age_s > limit_s else None

    def abandon(self, error: ApiError) -> None:
        """Answer all that waits, and all that comes, with `error`."""
        self._lost = error
        for future in list(self._pending):
            with suppress(InvalidStateError):  # it ended just now
                future.set_exception(error)

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last moved: small when idle or busy with short work, growing when stuck or dead."""
        return monotonic() - self._beat_s

    @property
    def num_queued(self) -> int:
        """Requests waiting."""
        return self._queue.qsize()

    async def submit(self, run: Callable[[], T], deadline_s: float) -> T:
        """The result of `run()`; ApiError when the queue is full or its turn came after `deadline_s` (monotonic).

        Cancelling the caller takes the work out of the queue.
        """
        if self._lost is not None:
            raise self._lost
        future: Future[T] = Future()
        try:
            self._queue.put_nowait(_Work(future, run, deadline_s))
        except queue.Full:
            raise ApiError("overloaded", f"{self.num_queued} requests are waiting already; try again shortly") from None
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return await asyncio.wrap_future(future)

    def _loop(self) -> None:
        # OpenMP keeps the number of threads per calling thread: it must be set on the one that computes.
        torch.set_num_threads(self._num_threads)
        faiss.omp_set_num_threads(self._num_threads)
        while True:
            self._beat_s = monotonic()
            try:
                work = self._queue.get(timeout=_BEAT_S)
            except queue.Empty:
                continue
            if work is None:
                return
            if work.future.set_running_or_notify_cancel():
                _finish(work)


def _finish(work: _Work) -> None:
    """Run one piece of work; whatever it raises is its caller's."""
    try:
        if monotonic() > work.deadline_s:
            raise ApiError("deadline_exceeded", "the request's time was over before its turn came")
        work.future.set_result(work.run())
    except Exception as error:
        work.future.set_exception(error)
