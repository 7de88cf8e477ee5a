"""status.json of a night: the state of each step, written before and after it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from twotower.artefacts.manifest import sync
from twotower.errors import DataError
from twotower.terminal import TextTable, styled

STATUS = "status.json"
STEPS = ("ingest", "validate", "train", "evaluate", "embed", "gates", "publish", "canary", "promote", "clean")

State = Literal["pending", "running", "done", "skipped", "refused", "failed", "stopped"]
ENDED: tuple[State, ...] = ("done", "skipped", "refused")  # the night goes on after these
_STYLES = {"done": "green", "refused": "yellow", "failed": "bold red", "stopped": "bold red", "running": "cyan"}


class StepStatus(msgspec.Struct, kw_only=True):
    """How one step went."""

    name: str
    state: State = "pending"
    started: datetime | None = None
    ended: datetime | None = None
    exit_status: int | None = None  # of the command that decided
    message: str = ""
    refused: bool = False  # it worked, and found a bundle or a release that must not be used


class Night(msgspec.Struct, kw_only=True):
    """How one night went, and what later steps need of earlier ones."""

    date: str
    steps: list[StepStatus]
    bundle: str | None = None  # the one that the release is made with
    release: str | None = None  # the new one; None before it is made, and when nothing had changed
    sequence: int | None = None  # of the pointer that proposes the release

    def step(self, name: str) -> StepStatus:
        """One step by its name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def problem(self) -> StepStatus | None:
        """The step that is not as it should be; None when all are done."""
        unfinished = next((step for step in self.steps if step.state not in ENDED), None)
        return unfinished or next((step for step in self.steps if step.state == "refused"), None)

    def sentence(self) -> str:
        """What is wrong with the night, in a sentence; empty when nothing is."""
        if (step := self.problem) is None:
            return ""
        happened = {"pending": "stopped before", "running": "was stopped in", "stopped": "was stopped in"}
        words = happened.get(step.state, "failed in" if step.state == "failed" else "went on after it was refused in")
        return f"the night of {self.date} {words} `{step.name}`{': ' if step.message else ''}{step.message}"


def new_night(date: str) -> Night:
    """A night of which nothing is done."""
    return Night(date=date, steps=[StepStatus(name=name) for name in STEPS])


def read_night(folder: Path) -> Night | None:
    """The status of a night's folder; None without one, DataError when it cannot be read."""
    try:
        night = msgspec.json.decode((folder / STATUS).read_bytes(), type=Night)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / STATUS} cannot be read: {error}. Remove it to do the night again.") from error
    if [step.name for step in night.steps] != list(STEPS):
        raise DataError(f"{folder / STATUS} has other steps than this version. Remove it to do the night again.")
    return night


def write_night(night: Night, folder: Path) -> None:
    """Write the status, whole or not at all."""
    staged = folder / f".{STATUS}"
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(night)))
    sync(staged)
    staged.replace(folder / STATUS)
    sync(folder)


def nights(folder: Path) -> Iterator[Path]:
    """The folders of nights, newest first."""
    dated = [path for path in folder.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]") if path.is_dir()]
    return iter(sorted(dated, reverse=True))


def last_success(folder: Path) -> datetime | None:
    """When a night last reached its end; None when none did. A night that cannot be read counts as none."""
    for path in nights(folder):
        try:
            night = read_night(path)
        except DataError:
            continue
        if night is not None and all(step.state in ENDED for step in night.steps):
            return night.steps[-1].ended
    return None


def night_before(folder: Path, date: str) -> Night | None:
    """The last night before a date."""
    return next((read_night(path) for path in nights(folder) if path.name < date), None)


def as_table(night: Night) -> TextTable:
    """A night as a table for the terminal."""
    table = TextTable(title=f"night of {night.date}", title_justify="left")
    for heading in ("step", "state", "started (UTC)", "seconds", "exit", "message"):
        table.add_column(heading, overflow="fold")
    for step in night.steps:
        begun = step.started.astimezone(UTC).strftime("%H:%M:%S") if step.started else ""
        took = f"{(step.ended - step.started).total_seconds():.1f}" if step.started and step.ended else ""
        status = "" if step.exit_status is None else str(step.exit_status)
        table.add_row(step.name, styled(step.state, _STYLES.get(step.state, "")), begun, took, status, step.message)
    return table
