"""The thread that does all model work, in batches.

It never waits for a batch to fill: an idle engine starts at once, and requests that arrive while it is busy form the next batch.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from statistics import median_low
from time import monotonic
from typing import Any, TypeVar

import faiss
import torch

from service.api.errors import ApiError

T = TypeVar("T")

CLOSE_S = 30.0  # how long to wait at the end for the thread, which may be stuck
TURN_S = 0.0005  # Python's switch interval: the event loop waits no longer for the engine's thread, so that refusals stay quick
_BEAT_S = 0.25  # how long an idle engine sleeps before it shows that it is alive
_FIRST = 5  # so many first batches are judged by their median: the very first often waits for memory and threads
_SMOOTHING = 0.1  # weight of the newest batch in the smoothed time per unit of cost
_DEVIATIONS = 1  # deviations added to that time in predictions, so that requests are in time, and not only on average
_LONGEST = 3  # one batch counts as at most this many times the usual: a slower one was probably interrupted
MAX_PATIENT = 8  # patient requests that may wait until the engine has nothing else to do; a further one is refused
_PATIENCE_S = 1.0  # a busy engine does one patient request per such time, and only one that has waited for longer than that
_NICENESS = 5  # when cores are busy, the event loop goes before the engine's thread, so that it can refuse requests at once


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one batch, and of the requests that wait."""

    batch_requests: int = 32
    batch_cost: int = 4096  # tokens: 16 full histories
    max_queued: int = 1024
    max_wait_s: float = 1.0  # a request that would wait longer is refused at once, so that its client can go elsewhere


@dataclass(frozen=True, slots=True)
class Batched:
    """Work that can be done for several arguments in one batch.

    The results have the order of the arguments. An exception among the results is raised only for its own caller.
    """

    run: Callable[[Any, Sequence[Any]], Sequence[Any]]
    of: Any  # the first argument of `run`; a batch only has work with the same function and the same object
    sets_pace: bool = True  # whether its time says how long other work will take

    def goes_with(self, other: "Batched | None") -> bool:
        """Whether both can be in one batch."""
        return other is not None and self.run is other.run and self.of is other.of


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    batched: Batched | None
    argument: Any  # the argument for `batched`, or the function to call if that is None
    cost: int
    deadline_s: float  # by time.monotonic
    queued_s: float
    is_patient: bool


class Place:
    """Room for one request, taken once and held until the engine has queued the request, or the `with` block ends.

    A place counts as waiting work while its request is prepared. Otherwise too many requests that arrive meanwhile would be
    admitted. Used only on the event loop.
    """

    __slots__ = ("_engine", "_is_held", "cost", "deadline_s", "is_patient")

    def __init__(self, engine: "Engine", cost: int, deadline_s: float, is_patient: bool = False) -> None:
        self._engine, self.cost, self.deadline_s, self.is_patient = engine, cost, deadline_s, is_patient
        self._is_held = True
        self._count(1, cost)

    def resize(self, cost: int) -> None:
        """Replace the estimated cost by a better one."""
        if self._is_held:
            self._count(0, cost - self.cost)
        self.cost = cost

    def give_back(self) -> None:
        """Free the place. A second call does nothing."""
        if self._is_held:
            self._is_held = False
            self._count(-1, -self.cost)

    def _count(self, num: int, cost: int) -> None:
        if self.is_patient:  # it does not delay other requests, so its cost does not count towards their wait
            self._engine.num_patient_reserved += num
        else:
            self._engine.num_reserved += num
            self._engine.reserved_cost += cost

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


class Engine:
    """Runs work in order on its own thread."""

    def __init__(self, num_threads: int, limits: Limits = Limits()) -> None:  # frozen
        self._num_threads, self._limits = num_threads, limits
        self._queue: deque[_Work] = deque()
        self._patient: deque[_Work] = deque()  # work that waits until no other work does
        self._patient_s = 0.0  # when (monotonic) the last patient work began
        self._changed = threading.Condition()
        self._queued_cost = 0  # of work that waits and of work being done
        # Numbers and cost of the places that are held, used only on the event loop. The cost is without patient places.
        self.num_reserved = self.num_patient_reserved = self.reserved_cost = 0
        self._second_per_cost = self._deviation = 0.0  # smoothed mean and mean deviation (Jacobson 1988)
        self._num_batches = 0
        self._first: list[float] = []  # seconds per unit of cost of the first batches
        self._closing = False
        self._pending: set[_Work] = set()
        self._lost: ApiError | None = None
        self._beat_s = monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self.on_batch: Callable[[int, int], None] = lambda _requests, _cost: None  # called after every batch

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish the queued work, then stop. A lost engine is not waited for."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._lost is None:
            self._thread.join(CLOSE_S)

    def trouble(self, limit_s: float) -> str | None:
        """What is wrong with the thread, None if nothing is: it has ended, or has not moved for more than `limit_s`."""
        if not self._thread.is_alive():
            return "the engine has ended"
        age_s = self.heartbeat_age_s
        return f"the engine has not moved for {age_s:.1f} s" if age_s > limit_s else None

    def abandon(self, error: ApiError) -> None:
        """Fail all waiting and all further work with `error`."""
        self._lost = error
        _deliver([(work, error) for work in list(self._pending)])

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last moved: small when idle or busy with short work, growing when it is stuck or dead."""
        return monotonic() - self.beat_s

    @property
    def beat_s(self) -> float:
        """When (monotonic) the thread last moved."""
        return self._beat_s

    @property
    def pace(self) -> tuple[float, float]:
        """Seconds per unit of cost, smoothed over batches, and the mean deviation of single batches from it."""
        return self._second_per_cost, self._deviation

    @property
    def num_queued(self) -> int:
        """Requests that wait, without patient ones."""
        return len(self._queue)

    @property
    def num_patient(self) -> int:
        """Patient requests that wait."""
        return len(self._patient)

    @property
    def queued_cost(self) -> int:
        """Cost of the work that waits or is being done, in tokens."""
        return self._queued_cost

    @property
    def wait_s(self) -> float:
        """The predicted wait of a request that arrives now, from the pace of the last batches."""
        return self._predict_s(self.queued_cost + self.reserved_cost)

    def _predict_s(self, cost: int) -> float:
        return cost * (self._second_per_cost + _DEVIATIONS * self._deviation)

    def has_room(self, cost: int, deadline_s: float) -> bool:
        """Whether work of this cost that arrives now may wait, and would be done by `deadline_s` (monotonic)."""
        wait_s = self.wait_s
        return (
            self.num_queued + self.num_reserved < self._limits.max_queued
            and wait_s <= self._limits.max_wait_s
            and (wait_s <= 0 or monotonic() + wait_s + self._predict_s(cost) <= deadline_s)
            and self._oldest_wait_s <= self._limits.max_wait_s
        )

    def take_place(self, cost: int, deadline_s: float) -> Place:
        """A place for work of about this cost; ApiError overloaded when `has_room` is False for it."""
        if self._lost is not None:
            raise self._lost
        if not self.has_room(cost, deadline_s):
            num_waiting = self.num_queued + self.num_reserved
            raise ApiError("overloaded", f"{num_waiting} requests are waiting already; try again shortly")
        return Place(self, cost, deadline_s)

    def take_patient_place(self, cost: int, deadline_s: float) -> Place:
        """A place for work that lets all other work go first; ApiError overloaded when `MAX_PATIENT` of these wait already."""
        if self._lost is not None:
            raise self._lost
        num_waiting = self.num_patient + self.num_patient_reserved
        if num_waiting >= MAX_PATIENT:
            raise ApiError("overloaded", f"{num_waiting} requests for explanations are waiting already; try again shortly")
        return Place(self, cost, deadline_s, is_patient=True)

    @property
    def _oldest_wait_s(self) -> float:
        """How long the first work in the queue has waited.

        This is checked beside the predicted wait, because work of unknown cost can take any time.
        """
        try:
            return monotonic() - self._queue[0].queued_s
        except IndexError:
            return 0.0

    async def load(self, release: Any) -> None:
        """Prepare for calls of a release. A thread can use it at once; an engine in another process must load it."""

    def hand_over(self, heir: Any, before: Any, hand_over: Callable[[Any, Any], None]) -> None:
        """Let a release take over the user states of another one, which answers no more. It is done in the queue's order."""
        self.run_soon(partial(hand_over, heir, before))

    def run_soon(self, run: Callable[[], object]) -> None:
        """Run something quick after the work that is queued now, and before all later work. Nobody waits for it."""
        loop = asyncio.get_running_loop()
        with self._changed:
            self._queue.append(_Work(loop.create_future(), loop, None, run, 0, inf, monotonic(), False))
            self._changed.notify()

    async def submit(self, run: Callable[[], T], place: Place) -> T:
        """The result of `run()`, which is not batched; see `submit_to`.

        Such work is rare, so its time does not count for the pace.
        """
        place.resize(0)
        return await self._wait(None, run, place)  # type: ignore[no-any-return]

    async def submit_to(self, batched: Batched, argument: Any, place: Place) -> Any:
        """The result for `argument` from the batch that it becomes part of. The place's cost is about its work in tokens.

        ApiError deadline_exceeded when its turn comes after the place's deadline. If the caller is cancelled, the work is
        skipped when its turn comes; patient work leaves the queue at once.
        """
        return await self._wait(batched, argument, place)

    async def _wait(self, batched: Batched | None, argument: Any, place: Place) -> Any:
        place.give_back()  # from here on it counts as queued
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        work = _Work(loop.create_future(), loop, batched, argument, place.cost, place.deadline_s, monotonic(), place.is_patient)
        self._pending.add(work)
        try:
            with self._changed:
                (self._patient if place.is_patient else self._queue).append(work)
                self._queued_cost += 0 if place.is_patient else work.cost
                self._changed.notify()
            return await work.future
        finally:
            self._pending.discard(work)
            if work.is_patient and work.future.cancelled():
                self._leave(work)

    def _leave(self, work: _Work) -> None:
        """Take cancelled patient work out of the queue, if it is still there.

        A busy engine does one patient request per `_PATIENCE_S`. If cancelled ones took these turns, then the others would be
        too late when their turn comes.
        """
        with self._changed, suppress(ValueError):
            self._patient.remove(work)

    def _loop(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
        # OpenMP has a number of threads for each calling thread, so it must be set on the thread that computes.
        torch.set_num_threads(self._num_threads)
        faiss.omp_set_num_threads(self._num_threads)
        while True:
            self._beat_s = monotonic()
            with self._changed:
                if not self._queue and not self._patient and not self._closing:
                    self._changed.wait(_BEAT_S)
                batch = self._take()
                if not batch and not self._queue and not self._patient and self._closing:
                    return
            if batch:
                self._work_on(batch)
                batch = []  # otherwise an idle engine would keep a release in memory that is no longer served

    def _take(self) -> list[_Work]:
        """The next batch: the first work in the queue, and the work right behind it, as long as none of it would be late."""
        started = monotonic()
        if self._patient and (not self._queue or started - max(self._patient[0].queued_s, self._patient_s) > _PATIENCE_S):
            work, self._patient_s = self._patient.popleft(), started
            self._queued_cost += work.cost
            return [work]
        batch: list[_Work] = []
        cost, soonest_s = 0, inf
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
                results.append((work, ApiError("deadline_exceeded", "the request's deadline passed before its turn came")))
            elif not work.future.done():  # otherwise its caller was cancelled
                todo.append(work)
        if todo:
            results += zip(todo, _results(todo), strict=True)
            if not todo[0].is_patient and (cost := sum(work.cost for work in todo)):
                self.on_batch(len(todo), cost)
                if (batched := todo[0].batched) is not None and batched.sets_pace:
                    self._learn((monotonic() - started) / cost)
        with self._changed:
            self._queued_cost -= sum(work.cost for work in batch)
        _deliver(results)

    def _learn(self, second_per_cost: float) -> None:
        """Update the pace with the time of one more batch. A single slow batch changes it little."""
        self._num_batches += 1
        if self._num_batches <= _FIRST:
            self._first.append(second_per_cost)
            self._second_per_cost = median_low(self._first)
            self._deviation = median_low([abs(one - self._second_per_cost) for one in self._first])
            return
        weight = max(_SMOOTHING, 1 / self._num_batches)
        second_per_cost = min(second_per_cost, _LONGEST * self._second_per_cost)
        self._deviation += weight * (abs(second_per_cost - self._second_per_cost) - self._deviation)
        self._second_per_cost += weight * (second_per_cost - self._second_per_cost)


def _results(batch: Sequence[_Work]) -> Sequence[Any]:
    """A result or an exception for each. If a whole batch fails, each is tried on its own, so that only the bad one fails."""
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
    """Wake the callers, with one call into each event loop."""
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
