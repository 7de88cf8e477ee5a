"""What a process holds over time (memory, file descriptors, threads), and how fast it grows."""

import math
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

LOOK_S = 1.0
NUM_BLOCKS = 10
T_95 = 2.306  # Student's t for a 95 % interval with NUM_BLOCKS - 2 degrees of freedom
MIB = 2**20
FILE = "{profile}-held.json"


class Held(msgspec.Struct, frozen=True):
    """What a process holds at one time."""

    at_s: float
    memory_mib: float
    descriptors: int
    threads: int


class Slope(NamedTuple):
    """Growth per minute, and its 95 % interval as plus or minus `noise`."""

    per_min: float
    noise: float

    @property
    def is_flat(self) -> bool:
        """Whether no growth is shown: the interval reaches down to 0."""
        return self.per_min - self.noise <= 0


def held_by(pid: int) -> Held:
    """What the process holds now. OSError when it has ended.

    Memory is without the pages of mapped files: those of a release become resident as items are looked at, and the system takes
    them back when it needs them.
    """
    process = Path(f"/proc/{pid}")
    resident, shared = map(int, (process / "statm").read_text().split()[1:3])
    descriptors, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return Held(time.monotonic(), (resident - shared) * resource.getpagesize() / MIB, descriptors, threads)


@contextmanager
def watching(pid: int, every_s: float = LOOK_S) -> Iterator[list[Held]]:
    """A list that grows by one look at the process every `every_s`, until the block ends."""
    looks, stop = list[Held](), threading.Event()

    def look_on() -> None:
        while not stop.wait(every_s):
            looks.append(held_by(pid))

    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield looks
    finally:
        stop.set()
        thread.join()


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of a straight line through the means of ten blocks of values.

    Blocks, because values close in time are alike: single values would make the noise look too small. ValueError with fewer
    than two values for each block.
    """
    if len(values) < 2 * NUM_BLOCKS:
        raise ValueError(f"{len(values)} looks are too few for a slope: {2 * NUM_BLOCKS} are needed")
    x = np.asarray([block.mean() for block in np.array_split(np.asarray(at_s, dtype=float) / 60, NUM_BLOCKS)])
    y = np.asarray([block.mean() for block in np.array_split(np.asarray(values, dtype=float), NUM_BLOCKS)])
    x, y = x - x.mean(), y - y.mean()
    per_min = float(x @ y / (x @ x))
    rest = y - per_min * x
    error = math.sqrt(float(rest @ rest) / (NUM_BLOCKS - 2) / float(x @ x))
    return Slope(per_min, T_95 * error)


def slopes(looks: Sequence[Held]) -> dict[str, Slope]:
    """The slopes of memory, descriptors and threads, without the first third, in which caches fill. ValueError as `slope`."""
    late = looks[len(looks) // 3 :]
    at_s = [look.at_s for look in late]
    return {
        "memory_mib": slope(at_s, [look.memory_mib for look in late]),
        "descriptors": slope(at_s, [look.descriptors for look in late]),
        "threads": slope(at_s, [look.threads for look in late]),
    }


def write_looks(looks: Sequence[Held], directory: Path, profile: str) -> None:
    """Keep the looks beside the outcomes of the profile."""
    (directory / FILE.format(profile=profile)).write_bytes(msgspec.json.encode(looks))


def read_looks(directory: Path, profile: str) -> list[Held]:
    """The looks that were kept; none if the server was not looked at."""
    path = directory / FILE.format(profile=profile)
    return msgspec.json.decode(path.read_bytes(), type=list[Held]) if path.exists() else []
