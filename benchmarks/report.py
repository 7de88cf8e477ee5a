"""Writes the results of all benchmarks: a table on the terminal, and build/bench/NAME.json."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from twotower.provenance import commit
from twotower.terminal import Cell, TextTable, console, styled

DIRECTORY = Path("build/bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure. `must` is the limit that it has to meet and `goal` the value we aim at; None is no limit."""

    metric: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    must: float | None = None
    goal: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} is {self.value}: leave out figures that were not measured")

    @property
    def meets_must(self) -> bool:
        """Whether the figure meets its limit."""
        return self._reaches(self.must)

    @property
    def meets_goal(self) -> bool:
        """Whether the figure reaches its goal."""
        return self._reaches(self.goal)

    def _reaches(self, bound: float | None) -> bool:
        if bound is None:
            return True
        return self.value >= bound if self.better == "higher" else self.value <= bound


def write_report(name: str, rows: Sequence[Row], directory: Path = DIRECTORY) -> Path:
    """Write `directory`/`name`.json, print the rows as a table, and return the path of the file."""
    content = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": os.cpu_count(),
        "rows": [asdict(row) for row in rows],
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    shown = console()
    shown.print(table(name, rows))
    shown.print(f"written to {path}")
    return path


def read_rows(name: str, directory: Path = DIRECTORY) -> list[Row]:
    """The rows of the last report of that name; none if there is no report."""
    path = directory / f"{name}.json"
    return [Row(**row) for row in json.loads(path.read_bytes())["rows"]] if path.exists() else []


def merged(rows: Sequence[Row], newer: Sequence[Row]) -> list[Row]:
    """All rows. Of two with the same name, the newer one."""
    return list(({row.metric: row for row in rows} | {row.metric: row for row in newer}).values())


def table(name: str, rows: Sequence[Row]) -> TextTable:
    """The rows as a table, each with a mark."""
    result = TextTable("metric", title=name)
    for heading in ("value", "unit", "must", "goal"):
        result.add_column(heading, justify="left" if heading == "unit" else "right")
    result.add_column("")
    for row in rows:
        sign = ">=" if row.better == "higher" else "<="
        bounds = ("" if bound is None else f"{sign} {figure(bound)}" for bound in (row.must, row.goal))
        result.add_row(row.metric, figure(row.value), row.unit, *bounds, mark(row))
    return result


def mark(row: Row) -> Cell:
    """ "met", "missed", or "short of goal" if only the limit is met."""
    if row.must is None and row.goal is None:
        return ""
    if not row.meets_must:
        return styled("missed", "red")
    return styled("met", "green") if row.meets_goal else styled("short of goal", "yellow")


def figure(value: float) -> str:
    """The value with four significant digits; whole and large numbers in full."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 10_000 else f"{value:.4g}"
