"""How much memory is left, how much a release will take, and giving back what one has left behind."""

import ctypes
from contextlib import suppress
from pathlib import Path

from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import ITEMS, VECTORS, ReleaseInfo

_BYTES_PER_ITEM = 300  # an id, its places in a list and a dictionary, a norm: 140 were measured with ids of 14 letters


def needed_bytes(manifest: Manifest, info: ReleaseInfo) -> int:
    """What a release takes at most: its files, which stay mapped or are copied, the item table once more for filters, and its
    ids; a flat index holds the vectors, or the little of them that it scans, once more.
    """
    files = {name: file.size for name, file in manifest.files.items()}
    scanned = files[VECTORS] if info.index.kind == "flat" else 0
    return sum(files.values()) + files[ITEMS] + scanned + _BYTES_PER_ITEM * info.num_items


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that could still be taken, of the machine and of each control group (v2) above us; None where Linux does not say."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    groups = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        (own,) = (line for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = groups / own.removeprefix("0::").strip("/")
        while True:
            found += _left_in(group)
            if group == groups:
                break
            group = group.parent
    return min(found, default=None)


def _left_in(group: Path) -> list[int]:
    """What a control group may still take; nothing where it has no limit. Pages of files that it can let go count as free."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return [limit - used + int(statistics["inactive_file"])]
    except (OSError, ValueError, KeyError):  # "max" is no number
        return []


def give_back() -> None:
    """Hand memory that is no longer used to the system, where the C library keeps it: glibc does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
