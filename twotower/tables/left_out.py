"""Counts the rows that are left out, and refuses a column when most of its rows have a fault."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from twotower.errors import DataError


@dataclass(frozen=True, slots=True)
class Reason:
    """Rows that are left out for one reason."""

    count: int
    why: str  # goes on after "left out:", with an example where there is one


@dataclass(slots=True)
class LeftOut:
    """Tally of the rows of one file or directory."""

    num_rows: int = 0  # all rows read, those left out too
    notes: list[str] = field(default_factory=list)  # how a column was read, where that is not plain
    _rows: dict[tuple[str, str], int] = field(default_factory=dict)
    _examples: dict[tuple[str, str], str] = field(default_factory=dict)
    _advice: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, column: str, why: str, count: int, example: str = "", advice: str = "") -> None:
        """Count rows with a fault in `column`. With `advice`, `require_sound` refuses a column most of whose rows have it."""
        if count:
            key = (column, why)
            self._rows[key] = self._rows.get(key, 0) + count
            self._examples.setdefault(key, example)
            self._advice.setdefault(key, advice)

    def note(self, line: str) -> None:
        """Add a note, once."""
        if line not in self.notes:
            self.notes.append(line)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Each reason with its number of rows and an example, most rows first."""
        most = sorted(self._rows.items(), key=lambda entry: -entry[1])
        return tuple(Reason(count, key[1] + self._such_as(key)) for key, count in most)

    def lines(self, what: str) -> Iterator[str]:
        """Lines for the terminal about these rows, which are called `what`."""
        yield from self.notes
        for reason in self.reasons:
            yield f"{reason.count:,} {what} left out: {reason.why}"

    def require_sound(self, path: Path) -> None:
        """DataError when more than half of the rows have a fault in one column: then it is the column's, not theirs."""
        for column in dict.fromkeys(column for column, _ in self._rows):
            here = {key: count for key, count in self._rows.items() if key[0] == column and self._advice[key]}
            if here and sum(here.values()) * 2 > self.num_rows:
                key = max(here, key=lambda k: here[k])
                share = f"{sum(here.values()):,} of {self.num_rows:,} rows"
                raise DataError(f"{path}: {share} cannot be used, because {key[1]}{self._such_as(key)}; {self._advice[key]}")

    def _such_as(self, key: tuple[str, str]) -> str:
        return f" (such as {self._examples[key]})" if self._examples[key] else ""
