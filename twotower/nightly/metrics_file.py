"""The nights as Prometheus sees them: a file for the textfile collector, written all the time while a night is at work.

A run that is killed leaves the file as it was. So it says that a night is at work, and its heartbeat ages.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from twotower.artefacts.manifest import sync
from twotower.errors import EnvironmentProblem
from twotower.nightly.status import Night, State, last_success
from twotower.progress import say

BEAT_S = 15.0
REFUSING = ("evaluate", "embed", "gates", "canary", "promote")  # the steps that may refuse a bundle or a release

Sample = tuple[str, float]  # labels, as they stand in the file, and value


@contextmanager
def beating(path: Path, folder: Path, night: Night) -> Iterator[None]:
    """Keep the file up to date while a night is at work. EnvironmentProblem, before anything is done, if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_metrics(path, folder, night, True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}. Correct `metrics`.") from error
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, folder, night, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _try_to_write(path, folder, night, False)


def _beat(path: Path, folder: Path, night: Night, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        _try_to_write(path, folder, night, True)


def _try_to_write(path: Path, folder: Path, night: Night, is_running: bool) -> None:
    """A night does not end because its metrics cannot be written; its heartbeat tells."""
    try:
        write_metrics(path, folder, night, is_running)
    except OSError as error:
        say(f"WARNING: cannot write {path}: {error.strerror or error}")


def write_metrics(path: Path, folder: Path, night: Night, is_running: bool) -> None:
    """Write the file, whole or not at all. `folder` holds all nights, of which `night` is the last."""
    ended = last_success(folder)
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(as_text(night, ended.timestamp() if ended else None, is_running, time.time()))
    sync(staged)
    staged.replace(path)


def as_text(night: Night, last_success_s: float | None, is_running: bool, now_s: float) -> str:
    """The content of the file. Times are in seconds since 1970; a night that never ended well has no last success."""
    steps, states = night.steps, get_args(State)
    times = [(step.name, step.started, step.ended) for step in steps]  # read once, for another thread may change them
    took = [(f'step="{name}"', (ended - started).total_seconds()) for name, started, ended in times if started and ended]
    refused = {step.name: step.refused for step in steps}
    gauges: list[tuple[str, str, list[Sample]]] = [
        ("heartbeat_timestamp_seconds", "When the routine last wrote this file.", [("", now_s)]),
        ("running", "1 while the routine is at work.", [("", is_running)]),
        ("step_duration_seconds", "How long a step of the last night took.", took),
        (
            "step_state",
            "1 for the state that a step of the last night is in.",
            [(f'step="{step.name}",state="{state}"', state == step.state) for step in steps for state in states],
        ),
        (
            "step_refused",
            "1 when a step of the last night refused a bundle or a release.",
            [(f'step="{name}"', refused[name]) for name in REFUSING],
        ),
    ]
    if last_success_s is not None:
        gauges.append(("last_success_timestamp_seconds", "When a night last reached its end.", [("", last_success_s)]))
    return "".join(_gauge(*gauge) for gauge in gauges)


def _gauge(name: str, what: str, samples: list[Sample]) -> str:
    name = f"twotower_nightly_{name}"
    lines = [f"{name}{{{labels}}} {float(value)!r}" if labels else f"{name} {float(value)!r}" for labels, value in samples]
    return "\n".join([f"# HELP {name} {what}", f"# TYPE {name} gauge", *lines, ""])
