"""Runs a command again and again in forks of one warm process, each with a fault of its own: 60 nights in some seconds.

Reads lines of JSON, {"fault": [name, value], "argv": [...]}; answers each with the exit status and what was said. A step is a
call that changes names on the disk, opens a file to write it, or waits for the disk.
"""

import errno
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import service.release.loaded  # noqa: F401
from embedder_cache import build
from embedder_cache.embedding import changed_items
from tests.end_to_end.crashes import Recorder
from twotower.cli import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link")
vars(build).update(SAMPLE_QUERIES=4, GOLDEN_LENGTHS=(0, 2, 30))  # a short night
changed_items.LEAST_BYTES = 0  # of some nights the items are in parts: one in 20 goes and one comes, and so two are a tenth


Act = Callable[[str, int | None], None]  # name of the step, and the descriptor that is synced


def on_step(act: Act) -> None:
    """Call `act` before each step, but for its own."""
    acting = False

    def take(step: str, descriptor: int | None) -> None:
        nonlocal acting
        if not acting:
            acting = True
            act(step, descriptor)
            acting = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
            take(event, None)

    fsync = os.fsync

    def audited(descriptor: int) -> None:
        take("fsync", descriptor)
        fsync(descriptor)

    os.fsync = audited  # type: ignore[assignment]  # the only one of them that Python does not audit
    sys.addaudithook(hook)


def prepare(fault: str, value: Any) -> None:
    """Arm the fault in this process."""
    steps = itertools.count(1)

    def kill(_: str, __: int | None) -> None:
        if next(steps) == value:
            os.kill(os.getpid(), signal.SIGKILL)

    def disk_full(event: str, _: int | None) -> None:
        if event not in ("os.remove", "os.rmdir", "os.chmod") and next(steps) == value:
            os.write(2, b"(no space at this step)\n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    match fault:
        case "kill":
            on_step(kill)
        case "disk full":
            on_step(disk_full)
        case "power":
            recorder = Recorder(Path(value["store"]), Path(value["crashes"]))
            on_step(recorder.step)
        case "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + value
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        case "file size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (value, value))


def night(fault: str, value: Any, argv: list[str], said: int) -> None:
    """One run, in this fork; never returns."""
    status = 1
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        prepare(fault, value)
        status = main(argv)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as said:
            if not (child := os.fork()):
                fault, value = asked["fault"]
                night(fault, value, asked["argv"], said.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            print(json.dumps({"status": status, "said": said.read().decode()}), file=answers, flush=True)
