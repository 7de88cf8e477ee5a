import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from service.histories.grouped_writes import MOST, GroupedWrites


class Disk:
    """Stores numbers in groups; odd ones fail. The first group waits until the gate is open."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.heard: list[tuple[int, Any]] = []
        self.gate = threading.Event()

    def write(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.gate.wait()
        self.groups.append(list(numbers))
        return [ValueError(str(n)) if n % 2 else 10 * n for n in numbers]

    def written(self, number: int, outcome: int | Exception) -> None:
        self.heard.append((number, outcome))


def checked(check: Callable[[Disk, GroupedWrites[int, int]], Awaitable[None]]) -> Disk:
    disk = Disk()

    async def run() -> None:
        writes = GroupedWrites("test-write", disk.write, disk.written)
        try:
            await check(disk, writes)
        finally:
            disk.gate.set()
            await asyncio.to_thread(writes.close)

    asyncio.run(asyncio.wait_for(run(), 20))
    return disk


async def begun(writes: GroupedWrites[int, int], *numbers: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(writes(n)) for n in numbers]
    await asyncio.sleep(0.05)
    return tasks


def test_what_arrives_while_a_group_is_stored_is_the_next_group() -> None:
    async def check(disk: Disk, writes: GroupedWrites[int, int]) -> None:
        first = await begun(writes, 0)
        further = await begun(writes, *range(2, 2 * MOST + 6, 2))
        disk.gate.set()
        assert await asyncio.gather(*first, *further) == [10 * n for n in range(0, 2 * MOST + 6, 2)]

    assert [len(group) for group in checked(check).groups] == [1, MOST, 2]


def test_each_caller_gets_its_own_outcome_after_it_was_told_on_the_loop() -> None:
    async def check(disk: Disk, writes: GroupedWrites[int, int]) -> None:
        tasks = await begun(writes, 0, 3, 4)
        disk.gate.set()
        assert await tasks[2] == 40
        assert [number for number, _ in disk.heard] == [0, 3, 4]
        with pytest.raises(ValueError, match="3"):
            await tasks[1]

    checked(check)


def test_who_is_cancelled_before_its_turn_writes_nothing_and_who_is_cancelled_later_is_still_told_of() -> None:
    async def check(disk: Disk, writes: GroupedWrites[int, int]) -> None:
        tasks = await begun(writes, 0)
        tasks += await begun(writes, 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        disk.gate.set()
        assert await writes(4) == 40

    disk = checked(check)
    assert disk.groups == [[0], [4]]
    assert disk.heard == [(0, 0), (4, 40)]


def test_closing_finishes_what_waits() -> None:
    disk = Disk()

    async def run() -> None:
        writes = GroupedWrites("test-write", disk.write, disk.written)
        tasks = await begun(writes, 0, 2, 4)
        disk.gate.set()
        await asyncio.to_thread(writes.close)
        assert await asyncio.gather(*tasks) == [0, 20, 40]

    asyncio.run(run())
