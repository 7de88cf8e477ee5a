"""Writes that share a commit: what arrives while a group is being stored, or soon after, is stored as the next group.

A commit waits for the disk, and that costs more than the writes of one request. A lone write is stored at once.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

APART_S = 0.002  # two groups begin at least so far apart: a write waits no longer for others to join it
MOST = 64  # writes of one group; the others wait for the next, so that no transaction grows without bound


class GroupedWrites(Generic[A, R]):
    """Runs writes in order on its own thread.

    `write` gets the arguments of a group, and returns a result or an exception for each. `written` is called on the event loop
    with each argument and its outcome, also if its caller was cancelled meanwhile, before any caller goes on.
    """

    def __init__(
        self, name: str, write: Callable[[Sequence[A]], Sequence[R | Exception]], written: Callable[[A, R | Exception], None]
    ) -> None:
        self._write, self._written = write, written
        self._waiting: SimpleQueue[tuple[A, asyncio.Future[R]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def __call__(self, argument: A) -> R:
        """The result for an argument. If the caller is cancelled before the write begins, nothing is written."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.put((argument, future))
        return await future

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        begun_s = -APART_S
        while (first := self._waiting.get()) is not None:
            sleep(max(begun_s + APART_S - monotonic(), 0))
            begun_s = monotonic()
            group = [first, *self._further()]
            if wanted := [(argument, future) for argument, future in group if not future.cancelled()]:
                self._store(wanted)

    def _further(self) -> "Iterator[tuple[A, asyncio.Future[R]]]":
        for _ in range(min(self._waiting.qsize(), MOST - 1)):
            if (write := self._waiting.get()) is None:
                self._waiting.put(None)  # the end comes after this group
                return
            yield write

    def _store(self, group: "Sequence[tuple[A, asyncio.Future[R]]]") -> None:
        outcomes = self._write([argument for argument, _ in group])
        for loop in {future.get_loop() for _, future in group}:
            mine = [(*one, outcome) for one, outcome in zip(group, outcomes, strict=True) if one[1].get_loop() is loop]
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(self._deliver, mine)

    def _deliver(self, written: "Sequence[tuple[A, asyncio.Future[R], R | Exception]]") -> None:
        for argument, _, outcome in written:
            self._written(argument, outcome)
        for _, future, outcome in written:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
