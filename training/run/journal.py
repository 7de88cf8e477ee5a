"""The journal that a run writes while it trains: config.json and lines of JSON in its directory.

Every line is a complete JSON object, written by one call, so a killed run loses at most its last line.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from training.run.stopping import StageEnd
from twotower.errors import FormatError

RUN_SUFFIX = ".run"  # of the run directory beside a bundle
CONFIG, STEPS, EVALUATIONS, STAGES = "config.json", "steps.jsonl", "evaluations.jsonl", "stages.jsonl"
MAX_LINES = 2000  # of steps.jsonl: each line covers at least this fraction of the run


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One or more steps: `loss` and `gradient_norm` are means, the other fields are those of the last step."""

    loss: float  # in nats, over the candidates of the stage
    gradient_norm: float | None  # before clipping
    step: int
    stage: int
    progress: float  # of the whole run
    learning_rate: float
    events_per_s: float
    seconds: float  # of training so far


class EvaluationLine(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one ranker after a number of steps."""

    step: int
    stage: int
    part: str  # part of the split
    ranker: str
    candidates: str  # description of what was ranked
    seconds: float  # time of the evaluation
    metrics: dict[str, float]


Line = TypeVar("Line", StepLine, EvaluationLine, StageEnd)


@dataclass(frozen=True, slots=True)
class Journal:
    """What a run has written so far."""

    config: dict[str, Any]
    steps: list[StepLine]
    evaluations: list[EvaluationLine]
    ends: list[StageEnd]  # of stages with early stopping


class RunJournal:
    """Writes the journal of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._since: list[StepLine] = []
        self._part_written = -1

    def begin(self, config: Mapping[str, Any], after_step: int, ends: Sequence[StageEnd] = ()) -> None:
        """Write the config. Keeps the lines of an earlier attempt up to `after_step`, from which this one continues.

        `ends` are those of the stages before.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        written = read_journal(self.directory) if after_step else Journal({}, [], [], [])
        steps = [line for line in written.steps if line.step <= after_step]
        evaluations = [line for line in written.evaluations if line.step <= after_step]
        write_whole(self.directory / CONFIG, json.dumps(config, indent=2))
        write_whole(self.directory / STEPS, "".join(map(encode, steps)))
        write_whole(self.directory / EVALUATIONS, "".join(map(encode, evaluations)))
        write_whole(self.directory / STAGES, "".join(map(encode, ends)))
        self._since = []
        self._part_written = part_of_run(steps[-1]) if steps else -1

    def step(self, line: StepLine) -> None:
        """Add a step, and write a line if enough of the run has passed since the last one."""
        self._since.append(line)
        if part_of_run(line) > self._part_written:
            append(self.directory / STEPS, summary(self._since))
            self._since = []
            self._part_written = part_of_run(line)

    def evaluation(self, line: EvaluationLine) -> None:
        """Write the result of an evaluation."""
        append(self.directory / EVALUATIONS, line)

    def stage_end(self, line: StageEnd) -> None:
        """Write how a stage with early stopping ended."""
        append(self.directory / STAGES, line)


def part_of_run(line: StepLine) -> int:
    """In which of MAX_LINES equal parts of the run a step lies."""
    return min(int(line.progress * MAX_LINES), MAX_LINES - 1)


def summary(lines: Sequence[StepLine]) -> StepLine:
    """The last step, with the mean loss and gradient norm over all steps."""
    norms = [line.gradient_norm for line in lines if line.gradient_norm is not None]
    return msgspec.structs.replace(
        lines[-1],
        loss=sum(line.loss for line in lines) / len(lines),
        gradient_norm=sum(norms) / len(norms) if norms else None,
    )


def read_journal(directory: Path) -> Journal:
    """The journal as written so far. Files that do not exist yet are empty parts."""
    config = directory / CONFIG
    return Journal(
        json.loads(config.read_bytes()) if config.exists() else {},
        read_lines(directory / STEPS, StepLine),
        read_lines(directory / EVALUATIONS, EvaluationLine),
        read_lines(directory / STAGES, StageEnd),
    )


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines of a file. An incomplete last line is ignored; FormatError for any other line that cannot be read."""
    raw = path.read_bytes().split(b"\n") if path.exists() else []
    lines: list[Line] = []
    for number, text in enumerate(raw, start=1):
        try:
            lines.append(msgspec.json.decode(text, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number < len(raw):
                raise FormatError(f"{path}:{number} is not a line of a journal: {error}. Delete that line.") from error
    return lines


def encode(line: StepLine | EvaluationLine | StageEnd) -> str:
    """A line of the file, with its newline."""
    return msgspec.json.encode(line).decode() + "\n"


def append(path: Path, line: StepLine | EvaluationLine | StageEnd) -> None:
    """Append a line by a single write, so that only the last line can be incomplete."""
    with path.open("a") as file:
        file.write(encode(line))


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once, so that a reader finds the old or the new file, never a part."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.replace(path)
