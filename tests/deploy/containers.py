"""Processes with the root of a container: everything may be read, nothing written but what is mounted. No engine is needed.

A user namespace makes a mount namespace of its own. There the folders of this machine are bound to be read only, and volumes as a
manifest mounts them. The process has no rights outside; inside it is root, where a container has user 10001.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)


class Mount(NamedTuple):
    """A folder or a file of this machine, and where the container has it."""

    source: Path
    target: str
    is_read_only: bool = False


def can_unshare() -> bool:
    """Whether this machine allows it: Linux, and no rule against user namespaces."""
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_unshare(), reason="this machine allows no user namespaces")


def command(root: Path, mounts: Sequence[Mount], arguments: Sequence[str]) -> list[str]:
    """The command line of `twotower` in a container whose root is made in the empty folder `root`."""
    lines = ["set -e", f"r={shlex.quote(str(root))}", "mount -t tmpfs none $r"]
    lines += [
        'for d in /*; do n=${d#/}; if [ -L "$d" ]; then cp -P "$d" "$r/$n"',
        'elif [ "$n" = tmp ]; then mkdir "$r/tmp"; mount -t tmpfs none "$r/tmp"',
        'elif [ -d "$d" ]; then mkdir "$r/$n"; mount --rbind "$d" "$r/$n"; mount -o remount,ro,bind "$r/$n" 2>/dev/null || true',
        "fi; done",
    ]
    for mount in mounts:
        target = f"$r{mount.target}"
        if not Path(mount.target).exists():
            made = "mkdir -p {0}" if mount.source.is_dir() else "mkdir -p $(dirname {0}); touch {0}"
            lines.append(made.format(target))
        lines.append(f"mount --bind {shlex.quote(str(mount.source))} {target}")
        if mount.is_read_only:
            lines.append(f"mount -o remount,ro,bind {target}")
    program = shlex.join([str(PYTHON), "-m", "twotower.cli", *arguments])
    lines += [
        "mount -o remount,ro $r",
        "for d in / /usr /etc; do if touch $r$d/x 2>/dev/null; then echo $d can be written >&2; exit 99; fi; done",
        f"exec chroot $r sh -c {shlex.quote(f'cd / && exec {program}')}",
    ]
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "\n".join(lines)]


def environment(**settings: str) -> dict[str, str]:
    """What a container's environment has: nothing of ours but where the packages are, and what the manifest sets."""
    ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    return ours | {"OMP_NUM_THREADS": "1"} | settings


def ran(root: Path, mounts: Sequence[Mount], arguments: Sequence[str], **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `twotower` to its end."""
    root.mkdir()
    line = command(root, mounts, arguments)
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment(**settings))
