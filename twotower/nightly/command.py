"""`twotower nightly`: one night, from new data to a release that is promoted or withdrawn. It runs the other commands."""

import argparse
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime
from pathlib import Path

from twotower.errors import DataError, EnvironmentProblem, StoreError
from twotower.nightly.config import load_config
from twotower.nightly.metrics_file import beating
from twotower.nightly.run import Run, Stopped, in_subprocess, stop_on_sigterm
from twotower.nightly.status import (
    ENDED,
    STEPS,
    Night,
    as_table,
    new_night,
    night_before,
    nights,
    read_night,
    write_night,
)
from twotower.nightly.steps import ACTIONS, require_store
from twotower.progress import say
from twotower.terminal import console

LOCK = ".lock"
FAILED, BEFORE, TERMINATED = 1, 3, 143
EPILOG = (
    "Run it every night from cron or a Kubernetes CronJob. Run it again after a failure: it goes on with the step that failed. "
    "Exit status 0: every step is done; 1: a step failed or was refused, and what was served stays; 2: wrong input, or another "
    "run is at work; 3: tonight is done, but the night before was not. docs/operations.md explains each step."
)


def main(argv: list[str]) -> int:
    """Do one night: ingest, validate, train or keep, evaluate, embed, gates, publish, canary, promote, clean."""
    parser = argparse.ArgumentParser(prog="twotower nightly", description=main.__doc__, epilog=EPILOG)
    parser.add_argument("--config", type=Path, default=Path("nightly.toml"), metavar="TOML", help="default: nightly.toml")
    parser.add_argument("--date", help="the night, as YYYY-MM-DD (default: today, UTC)")
    parser.add_argument("--again-from", choices=STEPS, metavar="STEP", help="do the night again from this step on")
    parser.add_argument("--status", action="store_true", help="print the last night as a table, or that of --date; run nothing")
    args = parser.parse_args(argv)
    config = load_config(args.config)
    home = args.config.resolve().parent
    folder = home / config.nights
    if args.status:
        return show(folder, args.date)
    night_date = day(args.date)
    with only_run(folder) as held:
        target = folder / night_date
        target.mkdir(exist_ok=True)
        night = read_night(target) or new_night(night_date)
        run = Run(config, home, target, night, in_subprocess(home, held))
        require_store(run)
        stop_on_sigterm()
        with beating(home / config.metrics, folder, night) if config.metrics else nullcontext():
            return carry_out(run, args.again_from)


def carry_out(run: Run, again_from: str | None = None) -> int:
    """Do the steps that are not done yet; the exit status of the command."""
    night, is_new = run.night, run.night.steps[0].state == "pending"
    before = night_before(run.nights, night.date) if is_new else None
    told = before.sentence() if before else ""
    if told:
        say(f"WARNING: {told}")
    if again_from is not None:
        start_over(night, again_from)
    write_night(night, run.folder)
    if all(step.state in ENDED for step in night.steps):
        say(f"the night of {night.date} is done already")
    for step in night.steps:
        if step.state in ENDED:
            continue
        try:
            if not run.do(step.name, ACTIONS[step.name]):
                break
        except Stopped:
            return TERMINATED
    if sentence := night.sentence():
        stays = "" if night.step("promote").state == "done" else ". What was served stays."
        say(f"{sentence.rstrip('.')}{stays}")
        return FAILED
    return BEFORE if told else 0


def start_over(night: Night, name: str) -> None:
    """Forget a step and all that follow."""
    first = next(place for place, step in enumerate(night.steps) if step.name == name)
    for place, step in enumerate(new_night(night.date).steps):
        if place >= first:
            night.steps[place] = step
    if first <= STEPS.index("embed"):
        night.release = night.sequence = None


def show(folder: Path, wanted: str | None) -> int:
    """Print a night as a table, and in a sentence what is wrong with it or with the night before."""
    target = folder / day(wanted) if wanted else next(nights(folder), None)
    night = read_night(target) if target else None
    if night is None:
        raise DataError(f"{folder} holds no night{f' of {wanted}' if wanted else ''} yet: run `twotower nightly`")
    console().print(as_table(night))
    before = night_before(folder, night.date)
    sentences = [text for text in (night.sentence(), before.sentence() if before else "") if text]
    for sentence in sentences:
        say(sentence)
    return FAILED if sentences else 0


def day(text: str | None) -> str:
    """A date as the name of a night; DataError when it is none."""
    try:
        return (date.fromisoformat(text) if text else datetime.now(UTC).date()).isoformat()
    except ValueError as error:
        raise DataError(f"--date {text!r} is not a date such as 2026-05-31") from error


@contextmanager
def only_run(folder: Path) -> Iterator[int]:
    """Lock the folder of nights against other runs; yields the lock's descriptor. StoreError while another run holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {folder}: {error.strerror or error}. Correct `nights`.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another `twotower nightly`, or a step that one left behind, is at work in {folder}") from None
        yield lock.fileno()
