"""How much memory this process may still take, as Linux tells it."""

from contextlib import suppress
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory left on the machine or in a control group (v2) above this process, the least of them; None without Linux.

    `root` is where /proc and /sys stand.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    groups = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        (line,) = (line for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = groups / line.removeprefix("0::").strip("/")
        while True:
            found += _left_in(group)
            if group == groups:
                break
            group = group.parent
    return min(found, default=None)


def _left_in(group: Path) -> list[int]:
    """What a control group may still take; empty without a limit. Cached pages of files count as free, because they can go."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return [limit - used + int(statistics["inactive_file"])]
    except (OSError, ValueError, KeyError):  # "max" is no number
        return []
