"""Row 34: under steady load nothing grows: memory, descriptors, threads. SOAK_S says for how long; a night is 1800."""

import asyncio
import os
import resource
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.service.faults.processes import load, serving

SOAK_S = float(os.environ.get("SOAK_S", "60"))
NUM_LOOKS = 60
ALLOWED_GROWTH = 0.02  # of the memory, from the middle of the run to its end, by the fitted line


class Held(NamedTuple):
    """What a process holds."""

    memory: int  # bytes
    descriptors: int
    threads: int


def held_by(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    counts = [len(list((process / name).iterdir())) for name in ("fd", "task")]
    return Held(pages * resource.getpagesize(), *counts)


@pytest.mark.faults
@pytest.mark.timeout(SOAK_S + 120)
def test_memory_descriptors_and_threads_do_not_grow(tiny_store: Path, tmp_path: Path) -> None:
    async def run() -> tuple[list[Held], set[int]]:
        with serving(tiny_store, tmp_path / "h.db") as server:
            async with load(server.address) as clients:
                looks = []
                for _ in range(NUM_LOOKS):
                    await asyncio.sleep(SOAK_S / NUM_LOOKS)
                    looks.append(held_by(server.process.pid))
            return looks, set(clients.seen)

    looks, statuses = asyncio.run(run())
    assert statuses == {200}
    late = looks[NUM_LOOKS // 2 :]  # caches and pools have filled
    memory = [look.memory for look in late]
    slope, start = np.polyfit(np.arange(len(late)), memory, 1)
    assert slope * len(late) < ALLOWED_GROWTH * start
    assert max(look.descriptors for look in late) <= max(look.descriptors for look in looks[: NUM_LOOKS // 2]) + 2
    assert max(look.threads for look in late) <= max(look.threads for look in looks[: NUM_LOOKS // 2])
