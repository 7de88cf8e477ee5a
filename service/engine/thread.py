"""One thread that owns all model work. It never waits for a batch to fill: when idle it starts at once, and while it is busy
requests gather, which are then answered together.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any, TypeVar

import faiss
import torch

from service.api.errors import ApiError

T = TypeVar("T")

CLOSE_S = 30.0  # a thread that is stuck is not waited for
TURN_S = 0.0005  # the event loop need not wait longer for the engine's thread: a refusal must be quick when there is much to do
_BEAT_S = 0.25  # how long an idle engine sleeps before it shows that it lives
_SMOOTHING = 0.1  # weight of the newest batch in the time that a unit of cost takes
_DEVIATIONS = 1  # on top of that time: who is let in should be answered in time, not only on average
_LONGEST = 3  # times the usual: what took longer was interrupted, and when all does, the usual grows soon enough
_NICENESS = 5  # on a full core the event loop goes first: what it refuses, it refuses at once


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold, and what may wait."""

    batch_requests: int = 32
    batch_cost: int = 4096  # tokens: 16 full histories
    max_queued: int = 1024
    max_wait_s: float = 1.0  # whoever would wait longer is refused at once: their time is better spent elsewhere


@dataclass(frozen=True, slots=True)
class Batched:
    """Work that can be done for several at once. The results are in order; an exception among them is its caller's alone."""

    run: Callable[[Any, Sequence[Any]], Sequence[Any]]
    of: Any  # its first argument; only work of the same function and the same object is done together

    def goes_with(self, other: "Batched | None") -> bool:
        """Whether both can be in one batch."""
        return other is not None and self.run is other.run and self.of is other.of


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    batched: Batched | None
    argument: Any  # of the batch, or the function itself
    cost: int
    deadline_s: float  # of time.monotonic
    queued_s: float


class Engine:
    """Runs work in order on its own thread."""

    def __init__(self, num_threads: int, limits: Limits = Limits()) -> None:  # frozen
        self._num_threads, self._limits = num_threads, limits
        self._queue: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._queued_cost = 0  # of what waits and of what is worked on
        self._coming_cost = 0  # of what is made ready; of the event loop alone
        self._second_per_cost = self._deviation = 0.0  # smoothed, and how far batches are off (Jacobson 1988)
        self._num_batches = 0
        self._closing = False
        self._pending: set[_Work] = set()
        self._lost: ApiError | None = None
        self._beat_s = monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self.on_batch: Callable[[int, int], None] = lambda _requests, _cost: None  # hears of every batch

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is queued, then stop; a lost engine is left to itself."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._lost is None:
            self._thread.join(CLOSE_S)

    def trouble(self, limit_s: float) -> str | None:
        """What is wrong with the thread: it ended, or has not moved for so long."""
        if not self._thread.is_alive():
            return "the engine has ended"
        age_s = self.heartbeat_age_s
        return f"the engine has not moved for {age_s:.1f} s" if age_s > limit_s else None

    def abandon(self, error: ApiError) -> None:
        """Answer all that waits, and all that comes, with `error`."""
        self._lost = error
        _deliver([(work, error) for work in list(self._pending)])

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last moved: small when idle or busy with short work, growing when stuck or dead."""
        return monotonic() - self.beat_s

    @property
    def beat_s(self) -> float:
        """When (monotonic) the thread last moved."""
        return self._beat_s

    @property
    def pace(self) -> tuple[float, float]:
        """Seconds that a unit of cost takes, and how far single batches are off."""
        return self._second_per_cost, self._deviation

    @property
    def num_queued(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    @property
    def queued_cost(self) -> int:
        """Tokens waiting or being read."""
        return self._queued_cost

    @property
    def wait_s(self) -> float:
        """How long a request that comes now will wait, by the time that the last batches took."""
        return self._predict_s(self.queued_cost + self._coming_cost)

    def _predict_s(self, cost: int) -> float:
        return cost * (self._second_per_cost + _DEVIATIONS * self._deviation)

    def is_full(self, deadline_s: float, cost: int = 0) -> bool:
        """Whether work of this cost that comes now would be refused."""
        wait_s = self.wait_s
        return (
            self.num_queued >= self._limits.max_queued
            or wait_s > self._limits.max_wait_s
            or (wait_s > 0 and monotonic() + wait_s + self._predict_s(cost) > deadline_s)
            or self._oldest_wait_s > self._limits.max_wait_s
        )

    @contextmanager
    def place_for(self, cost: int, deadline_s: float) -> Iterator[None]:
        """Count work as waiting while it is made ready, or all that comes meanwhile would be let in; ApiError when full."""
        if self.is_full(deadline_s, cost):
            raise self.refusal()
        self._coming_cost += cost
        try:
            yield
        finally:
            self._coming_cost -= cost

    @property
    def _oldest_wait_s(self) -> float:
        """How long the first in the queue has waited: work whose cost is not known can take any time."""
        try:
            return monotonic() - self._queue[0].queued_s
        except IndexError:
            return 0.0

    def refusal(self) -> ApiError:
        """What is said to who does not fit in."""
        return ApiError("overloaded", f"{self.num_queued} requests are waiting already; try again shortly")

    async def load(self, release: Any) -> None:
        """Be ready to be asked a release; a thread has it at hand."""

    async def submit(self, run: Callable[[], T], deadline_s: float) -> T:
        """The result of `run()`, alone; see `submit_to`. It counts nothing in predicting how long others wait: it is rare."""
        return await self._wait(None, run, 0, deadline_s)  # type: ignore[no-any-return]

    async def submit_to(self, batched: Batched, argument: Any, cost: int, deadline_s: float) -> Any:
        """The result for `argument` of the batch it ends up in; `cost` is about its share of the work, in tokens.

        ApiError at once when it could not be answered by `deadline_s` (monotonic), or when its turn came too late.
        Cancelling the caller takes the work out of the queue.
        """
        return await self._wait(batched, argument, cost, deadline_s)

    async def _wait(self, batched: Batched | None, argument: Any, cost: int, deadline_s: float) -> Any:
        if self._lost is not None:
            raise self._lost
        if self.is_full(deadline_s, cost):
            raise self.refusal()
        loop = asyncio.get_running_loop()
        work = _Work(loop.create_future(), loop, batched, argument, cost, deadline_s, monotonic())
        self._pending.add(work)
        try:
            with self._changed:
                self._queue.append(work)
                self._queued_cost += cost
                self._changed.notify()
            return await work.future
        finally:
            self._pending.discard(work)

    def _loop(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
        # OpenMP keeps the number of threads per calling thread: it must be set on the one that computes.
        torch.set_num_threads(self._num_threads)
        faiss.omp_set_num_threads(self._num_threads)
        while True:
            self._beat_s = monotonic()
            with self._changed:
                if not self._queue and not self._closing:
                    self._changed.wait(_BEAT_S)
                batch = self._take()
                if not batch and not self._queue and self._closing:
                    return
            if batch:
                self._work_on(batch)
                batch = []  # or the engine would hold on to a release that is not served any more until it is asked again

    def _take(self) -> list[_Work]:
        """The first in the queue, and those right behind that can be done with it without making any of them late."""
        batch: list[_Work] = []
        cost, started, soonest_s = 0, monotonic(), inf
        while self._queue and len(batch) < self._limits.batch_requests:
            work = self._queue[0]
            if batch and not (work.batched and work.batched.goes_with(batch[0].batched)):
                break
            if batch and cost + work.cost > self._limits.batch_cost:
                break
            soonest_s = min(soonest_s, work.deadline_s)
            if batch and started + self._predict_s(cost + work.cost) > soonest_s:
                break
            self._queue.popleft()
            batch.append(work)
            cost += work.cost
        return batch

    def _work_on(self, batch: list[_Work]) -> None:
        started = monotonic()
        results: list[tuple[_Work, Any]] = []
        todo = []
        for work in batch:
            if work.deadline_s < started:
                results.append((work, ApiError("deadline_exceeded", "the request's time was over before its turn came")))
            elif not work.future.done():  # else whoever asked has gone
                todo.append(work)
        if todo:
            results += zip(todo, _results(todo), strict=True)
            if cost := sum(work.cost for work in todo):
                self.on_batch(len(todo), cost)
                self._learn((monotonic() - started) / cost)
        with self._changed:
            self._queued_cost -= sum(work.cost for work in batch)
        _deliver(results)

    def _learn(self, second_per_cost: float) -> None:
        """One more batch."""
        self._num_batches += 1
        weight = max(_SMOOTHING, 1 / self._num_batches)
        if self._num_batches > 1:
            second_per_cost = min(second_per_cost, _LONGEST * self._second_per_cost)
            self._deviation += weight * (abs(second_per_cost - self._second_per_cost) - self._deviation)
        self._second_per_cost += weight * (second_per_cost - self._second_per_cost)


def _results(batch: Sequence[_Work]) -> Sequence[Any]:
    """What each gets: a result or an exception. When the whole batch fails, each is tried alone: only the culprit fails."""
    first = batch[0].batched
    if first is None:
        return [_attempt(batch[0].argument)]
    arguments = [work.argument for work in batch]
    results = _attempt(lambda: first.run(first.of, arguments))
    if not isinstance(results, Exception):
        return results  # type: ignore[no-any-return]
    if len(batch) == 1:
        return [results]
    return [_results([work])[0] for work in batch]


def _attempt(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return error


def _deliver(results: Sequence[tuple[_Work, Any]]) -> None:
    """Wake the callers: one call into each event loop, however many they are."""
    for loop in {work.loop for work, _ in results}:
        mine = [(work.future, result) for work, result in results if work.loop is loop]
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _resolve(results: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
