"""What a run writes down while it goes on: config.json, steps.jsonl and evaluations.jsonl in the run's own directory.

Every line is whole JSON and is handed to the system at once: a killed run loses its last line at most.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from twotower.errors import FormatError

RUN_SUFFIX = ".run"  # of the directory beside a bundle in which its run leaves what it writes
CONFIG, STEPS, EVALUATIONS = "config.json", "steps.jsonl", "evaluations.jsonl"
MAX_LINES = 2000  # of steps.jsonl: a line closes when the run has moved on by so small a part


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One step, or means over the steps since the line before; then `step` and what follows are those of the last."""

    loss: float  # nats, over the stage's own candidates
    gradient_norm: float | None  # before clipping
    step: int
    stage: int
    progress: float  # of the whole run
    learning_rate: float
    events_per_s: float
    seconds: float  # of training so far


class EvaluationLine(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one ranker after so many steps."""

    step: int
    stage: int
    part: str  # of the split
    ranker: str
    candidates: str  # what was ranked, in words
    seconds: float  # that it took
    metrics: dict[str, float]


Line = TypeVar("Line", StepLine, EvaluationLine)


@dataclass(frozen=True, slots=True)
class Journal:
    """What a run has written down so far."""

    config: dict[str, Any]
    steps: list[StepLine]
    evaluations: list[EvaluationLine]


class RunJournal:
    """Writes the journal of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._since: list[StepLine] = []
        self._part_written = -1

    def begin(self, config: Mapping[str, Any], after_step: int) -> None:
        """Note what the run is; of an earlier attempt keep what it wrote up to `after_step`, from where this one goes on."""
        self.directory.mkdir(parents=True, exist_ok=True)
        written = read_journal(self.directory) if after_step else Journal({}, [], [])
        steps = [line for line in written.steps if line.step <= after_step]
        evaluations = [line for line in written.evaluations if line.step <= after_step]
        write_whole(self.directory / CONFIG, json.dumps(config, indent=2))
        write_whole(self.directory / STEPS, "".join(map(encode, steps)))
        write_whole(self.directory / EVALUATIONS, "".join(map(encode, evaluations)))
        self._since = []
        self._part_written = part_of_run(steps[-1]) if steps else -1

    def step(self, line: StepLine) -> None:
        """Note a step: a line of its own, or a share in one."""
        self._since.append(line)
        if part_of_run(line) > self._part_written:
            append(self.directory / STEPS, summary(self._since))
            self._since = []
            self._part_written = part_of_run(line)

    def evaluation(self, line: EvaluationLine) -> None:
        """Note what an evaluation found."""
        append(self.directory / EVALUATIONS, line)


def part_of_run(line: StepLine) -> int:
    """Which of the run's MAX_LINES parts a step lies in."""
    return min(int(line.progress * MAX_LINES), MAX_LINES - 1)


def summary(lines: Sequence[StepLine]) -> StepLine:
    """The last step, with the means of loss and gradient norm over all of them."""
    norms = [line.gradient_norm for line in lines if line.gradient_norm is not None]
    return msgspec.structs.replace(
        lines[-1],
        loss=sum(line.loss for line in lines) / len(lines),
        gradient_norm=sum(norms) / len(norms) if norms else None,
    )


def read_journal(directory: Path) -> Journal:
    """The journal as it stands, also while the run goes on; empty parts where nothing was written yet."""
    config = directory / CONFIG
    return Journal(
        json.loads(config.read_bytes()) if config.exists() else {},
        read_lines(directory / STEPS, StepLine),
        read_lines(directory / EVALUATIONS, EvaluationLine),
    )


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Lines of a file, without the torn one that a killed run may end in; FormatError names any other that cannot be read."""
    raw = path.read_bytes().split(b"\n") if path.exists() else []
    lines: list[Line] = []
    for number, text in enumerate(raw, start=1):
        try:
            lines.append(msgspec.json.decode(text, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number < len(raw):
                raise FormatError(f"{path}:{number} is not a line of a journal: {error}. Delete that line.") from error
    return lines


def encode(line: StepLine | EvaluationLine) -> str:
    """As it stands in the file."""
    return msgspec.json.encode(line).decode() + "\n"


def append(path: Path, line: StepLine | EvaluationLine) -> None:
    """One write per line, so that only the last can be torn."""
    with path.open("a") as file:
        file.write(encode(line))


def write_whole(path: Path, text: str) -> None:
    """The whole file or the one before."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.replace(path)
