"""Progress of long work: a bar with rate and time left on a terminal, one line per step elsewhere."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from twotower.terminal import TaskText, console, styled, visible

CONSOLE = console(stderr=True, soft_wrap=True)
FILE = "TWOTOWER_PROGRESS"  # a file that says which step runs and how far it is, for a program that waits for this one
_NOTED_EVERY_S = 0.25


class Step:
    """One step of long work; call `advance` as it proceeds."""

    def __init__(self, progress: Progress | None, task: int, title: str = "", total: float | None = None) -> None:
        self._progress, self._task, self._title, self._total = progress, task, title, total
        self.done = 0.0
        self.note = ""
        self._noted_s = 0.0
        self._write()

    def advance(self, amount: float) -> None:
        """Add `amount` to what is done."""
        self.done += amount
        if self._progress is not None:
            self._progress.advance(self._task, amount)  # type: ignore[arg-type]
        self._write()

    def _write(self) -> None:
        """Write how far the step is into the file that `FILE` names, a few times a second."""
        path, now_s = os.environ.get(FILE), time.monotonic()
        if not path or now_s - self._noted_s < _NOTED_EVERY_S:
            return
        self._noted_s = now_s
        with suppress(OSError):
            new = Path(f"{path}.new")
            new.write_text(json.dumps({"step": self._title, "done": self.done, "total": self._total}))
            new.replace(path)

    def say(self, note: str) -> None:
        """Set the note beside the bar, which is also at the end of the step's line."""
        self.note = note
        if self._progress is not None:
            self._progress.update(self._task, note=note)  # type: ignore[arg-type]


class _Rate(ProgressColumn):
    """The column with units per second."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return styled(f"{task.speed:,.0f} {unit}/s" if unit and task.speed else "", "cyan")


@contextmanager
def step(title: str, total: float | None = None, unit: str = "") -> Iterator[Step]:
    """Report work called `title`: on a terminal that can redraw a line with a bar, and everywhere with a line when it is done."""
    started = time.monotonic()
    if CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal:
        columns = (
            TaskText(width=32),
            BarColumn(bar_width=24),
            _Rate(),
            TimeElapsedColumn(),
            TaskText("left"),
            TimeRemainingColumn(),
            TaskText("note", style="dim"),
        )
        with Progress(*columns, console=CONSOLE, transient=True) as progress:
            work = Step(progress, progress.add_task(title, total=total, unit=unit, note="", left="left"), title, total)
            yield work
    else:
        work = Step(None, 0, title, total)
        yield work
    seconds = time.monotonic() - started
    rate = f", {work.done / max(seconds, 1e-9):,.0f} {unit}/s" if unit and work.done else ""
    note = f" - {work.note}" if work.note else ""
    say(f"{title:<32} {seconds:6.1f} s{rate}{note}")


def say(line: str) -> None:
    """Write one line to stderr, because stdout belongs to results; nothing where `CONSOLE.quiet` is set."""
    if CONSOLE.quiet:
        return
    with suppress(OSError):  # stderr is closed, or its disk is full: the work goes on
        if CONSOLE.is_terminal:
            CONSOLE.print(visible(line))
        else:  # without rich, which ends the program when the reader of a pipe has gone
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
