"""Item signals: numbers that change from day to day and are known ahead (a promotion, a mailer, a price cut).

A row of the file holds from `valid_from` until before `valid_until`. An item without a row has zeros. To the model each signal
is one more dimension beside log popularity, refreshed nightly without embedding an item again, and weighed by the query.
Signals are by day, and a day has the values of its middle: a promotion of one local day then counts for exactly one day in any
time zone. A row too short to cover the middle of a day counts for the day in which it begins.

R: rows, N: items, S: signals
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.events import BATCH_ROWS
from twotower.data.features import DAY_MS, Floats, Ints, to_floats
from twotower.data.schema import SignalColumns
from twotower.errors import DataError
from twotower.tables.ids import sound_ids
from twotower.tables.left_out import LeftOut, Reason
from twotower.tables.table import open_table
from twotower.tables.times import LATEST_MS, TimeColumn

LIMIT = 100.0  # of absolute values, because signals stand beside log popularity, which is about 10


@dataclass(frozen=True, slots=True)
class SignalReport:
    """Counts of the rows that were read and of those that have no effect."""

    num_rows: int
    unknown_items: int
    unknown_item_examples: tuple[str, ...]
    never_valid: int
    left_out: tuple[Reason, ...] = ()  # for other reasons
    notes: tuple[str, ...] = ()  # how columns were read

    def lines(self) -> list[str]:
        """Lines for the terminal: the number of rows, and each kind of row that was left out."""
        lines = [f"{self.num_rows:,} rows of signals", *self.notes]
        lines += [f"{reason.count:,} signals left out: {reason.why}" for reason in self.left_out]
        if self.unknown_items:
            names = ", ".join(self.unknown_item_examples)
            lines.append(f"{self.unknown_items:,} signals left out: their items are not in the catalogue (such as {names})")
        if self.never_valid:
            lines.append(f"{self.never_valid:,} signals left out: they end before they begin")
        return lines


@dataclass(frozen=True, slots=True)
class Signals:
    """Rows of the catalogue's items, sorted by their beginning. Where rows of an item overlap, the later one counts."""

    num_items: int
    item_rows_R: npt.NDArray[np.int32]
    from_ms_R: Ints
    until_ms_R: Ints
    values_RS: Floats
    report: SignalReport

    @property
    def num_signals(self) -> int:
        """Number of dimensions that they add to every item vector."""
        return int(self.values_RS.shape[1])

    def daily(self, start_ms: int, step_ms: int, num_steps: int) -> Iterator[Floats]:
        """Values [N, S] at the middle of each step [start + t * step, start + (t + 1) * step)."""
        middle_ms = start_ms + step_ms // 2
        first_R = -((middle_ms - self.from_ms_R) // step_ms)
        last_R = (self.until_ms_R - 1 - middle_ms) // step_ms
        short_R = last_R < first_R
        first_R = np.where(short_R, (self.from_ms_R - start_ms) // step_ms, first_R)
        last_R = np.where(short_R, first_R, last_R)
        order = np.argsort(first_R, kind="stable")
        bounds = np.searchsorted(first_R[order], np.arange(num_steps), side="right").tolist()
        active = order[:0]
        for t, (begin, end) in enumerate(zip([0, *bounds[:-1]], bounds, strict=True)):
            active = np.sort(np.concatenate([active, order[begin:end]]))  # in the order of their beginning
            active = active[last_R[active] >= t]
            values_NS = np.zeros((self.num_items, self.num_signals), np.float32)
            values_NS[self.item_rows_R[active]] = self.values_RS[active]  # the last of several rows of an item counts
            yield values_NS

    def day(self, from_ms: int) -> Floats:
        """Values [N, S] for the 24 hours from `from_ms`: those of a release made at that moment."""
        return next(self.daily(from_ms, DAY_MS, 1))


def require_signals(columns: SignalColumns | None, path: Path | None) -> None:
    """DataError when the schema names signals and no file is given, or the other way round."""
    if columns is not None and path is None:
        raise DataError(
            f"the schema names signals ({', '.join(columns.features)}): give their file with --signals, "
            f"or take [signals] out of schema.toml and train without them"
        )
    if columns is None and path is not None:
        raise DataError(
            f"the schema names no signals, so {path} would not be read: add [signals] with its features to schema.toml "
            f"and train, or leave --signals out"
        )


def read_signals(path: Path, columns: SignalColumns, item_ids: pa.Array, start_ms: int = 0, stop_ms: int = LATEST_MS) -> Signals:
    """Stream the file and keep the rows that hold at some time of [start, stop), at 20 + 4 S bytes each.

    A missing `valid_until` has no end. A missing value is zero. Rows without an item or a start are counted and left
    out. DataError when most rows are, or for a value beyond 100.
    """
    table = open_table(path, "signals")
    needed = [*columns.roles, *columns.features]
    table.require(needed)
    left_out = LeftOut()
    starts, ends = TimeColumn(columns.valid_from, left_out), TimeColumn(columns.valid_until, left_out)
    nothing = np.zeros(0, np.int64)
    parts = [(nothing.astype(np.int32), nothing, nothing, np.zeros((0, len(columns.features)), np.float32))]
    unknown = never = 0
    examples: list[str] = []
    for part, batch in table.batches_by_part(needed, BATCH_ROWS):
        starts.begin(part.file)
        ends.begin(part.file)
        left_out.num_rows += len(batch)
        from_ms_R, began_R = starts.read(batch.column(columns.valid_from))
        until_ms_R, ended_R = ends.read_open(batch.column(columns.valid_until))
        sound_R = began_R & ended_R
        if not sound_R.all():
            batch, from_ms_R, until_ms_R = batch.filter(pa.array(sound_R)), from_ms_R[sound_R], until_ms_R[sound_R]
        if not len(batch):
            continue
        signal_ids = sound_ids(batch.column(columns.item_id), columns.item_id, left_out)
        has_id_R = pc.not_equal(signal_ids, "").to_numpy(zero_copy_only=False)
        item_rows = pc.index_in(signal_ids, item_ids)
        values_RS = np.stack([_values(batch.column(name), name) for name in columns.features], axis=1)
        unknown_R = item_rows.is_null().to_numpy(zero_copy_only=False) & has_id_R
        never_R = ~unknown_R & has_id_R & (until_ms_R <= from_ms_R)
        unknown, never = unknown + int(unknown_R.sum()), never + int(never_R.sum())
        if unknown_R.any() and len(examples) < 3:
            strange = pc.unique(signal_ids.filter(pa.array(unknown_R))).to_pylist()
            examples += strange[: 3 - len(examples)]
        kept_R = has_id_R & ~unknown_R & ~never_R & (from_ms_R < stop_ms) & (until_ms_R > start_ms)
        rows_R = item_rows.fill_null(0).to_numpy(zero_copy_only=False)
        parts.append((rows_R[kept_R], from_ms_R[kept_R], until_ms_R[kept_R], values_RS[kept_R]))
    rows_R, from_ms_R, until_ms_R, values_RS = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(from_ms_R, kind="stable")
    left_out.require_sound(path)
    report = SignalReport(left_out.num_rows, unknown, tuple(examples), never, left_out.reasons, tuple(left_out.notes))
    return Signals(len(item_ids), rows_R[order], from_ms_R[order], until_ms_R[order], values_RS[order], report)


def _values(column: pa.Array, name: str) -> Floats:
    values_R = np.nan_to_num(to_floats(column, name), nan=0.0, posinf=np.inf, neginf=-np.inf)
    largest = np.abs(values_R).max(initial=0.0)
    if largest > LIMIT:
        raise DataError(
            f"column {name!r} of the signals reaches {largest:,.6g}: values must lie within {LIMIT:.0f} of zero, and work best "
            f"about 1 in size. Scale the column (a share, or a price cut as a fraction of the price)."
        )
    return values_R.astype(np.float32)
