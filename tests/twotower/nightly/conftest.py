"""A night whose commands are answered by the test."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from twotower.nightly.config import CanaryTable, Config, DataTable, ReleaseTable
from twotower.nightly.run import Run
from twotower.nightly.status import new_night

Answer = str | tuple[int, str]


class Commands:
    """Answers command lines by what they begin with, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.answers: dict[str, Answer | Callable[[list[str]], Answer]] = {}

    def __call__(self, line: Sequence[str], log: Path) -> tuple[int, str]:
        words = list(line[3:]) if list(line[1:3]) == ["-m", "twotower.cli"] else list(line)
        self.lines.append(words)
        for begin, answer in self.answers.items():
            if " ".join(words).startswith(begin):
                given = answer(words) if callable(answer) else answer
                status, text = given if isinstance(given, tuple) else (0, given)
                if status:
                    log.write_text(f"reading\ntwotower: error: {text}\n")
                return status, text
        raise AssertionError(f"nobody expected {words}")

    @property
    def names(self) -> list[str]:
        return [" ".join(line[:2]) if line[0] == "releases" else line[0] for line in self.lines]


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def run(tmp_path: Path, commands: Commands) -> Run:
    """A run of the night 2026-05-31 with an empty store and no server."""
    config = Config(
        data=DataTable(events="events.parquet", items="items.parquet", schema="schema.toml"),
        release=ReleaseTable(store="store"),
        canary=CanaryTable(seconds=2.0, patience_s=1.0),
    )
    folder = tmp_path / "nights" / "2026-05-31"
    folder.mkdir(parents=True)
    (tmp_path / "store" / "releases").mkdir(parents=True)
    return Run(config, tmp_path, folder, new_night("2026-05-31"), commands, waits=lambda _: None)
