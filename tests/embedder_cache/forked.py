"""The nightly job in processes of its own, forked from one that has imported it: one that dies, one that waits."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from embedder_cache import build
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.manifest import seal
from twotower.cli import main
from twotower.progress import Step


def fork(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that has this one's environment."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    process = processes.Process(target=_in_environment, args=(dict(os.environ), target, *arguments))
    process.start()
    return process


def _in_environment(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def build_and_die(bundle: Path, items: Path, store: Path, after: int = 1) -> None:
    """A run that is killed when it has written so many batches."""
    process = fork(_build_and_die, bundle, items, store, after)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _build_and_die(bundle: Path, items: Path, store: Path, after: int) -> None:
    left = iter(range(after - 1, -1, -1))

    def advance(self: Step, amount: float) -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    Step.advance = advance  # type: ignore[method-assign]
    build.build_release(load_bundle(bundle), items, store, None)


class Run:
    """`twotower embed` as a process that stops before it publishes, says so, and goes on when told to."""

    def __init__(self, said: Path, cache: Path, *arguments: object) -> None:
        self._said = said
        self._connection, other = multiprocessing.Pipe()
        self._process = fork(_embed, other, said, cache, *map(str, arguments))

    def wait_until_built(self) -> None:
        assert self._connection.poll(120)
        assert self._connection.recv() == "built"

    def go_on(self) -> None:
        self._connection.send("go on")

    def end(self) -> tuple[int, str]:
        """Exit status, and what was said on standard error."""
        self._process.join(120)
        assert self._process.exitcode is not None
        return self._process.exitcode, self._said.read_text()


def _embed(connection: Connection, said: Path, cache: Path, *arguments: str) -> None:
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
    os.environ["TWOTOWER_CACHE"] = str(cache)

    def wait_and_seal(*args: Any, **options: Any) -> Any:
        connection.send("built")
        connection.recv()
        return seal(*args, **options)

    build.seal = wait_and_seal  # type: ignore[attr-defined]
    sys.exit(main(["embed", *arguments]))
