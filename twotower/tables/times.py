"""Times of events and signals as UTC milliseconds, from timestamps, dates, text, or numbers that count from 1970.

E: rows of a batch
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from twotower.errors import DataError
from twotower.tables.ids import Mask, id_texts
from twotower.tables.iso_times import Ints, days_ms, parse_times
from twotower.tables.left_out import LeftOut
from twotower.tables.plain import MOMENT

EARLIEST_MS = 315_532_800_000  # 1980-01-01
LATEST_MS = 4_102_444_800_000  # 2100-01-01
# Factors from a unit to milliseconds. Between 1980 and 2100 no number is a time in two units, nor in one and a date as 20260105.
UNITS = {"epoch seconds": 1e3, "epoch milliseconds": 1.0, "epoch microseconds": 1e-3, "epoch nanoseconds": 1e-6}
DIGITS = "dates as 20260105"
_FIRST_DIGITS, _LAST_DIGITS = 19_800_101, 21_000_101
_NUMBER = r"^\s*-?\d+(\.\d*)?\s*$"
_WAY_OUT = "write timestamps, text such as 2026-01-05T08:00:00Z, or numbers that count from 1970"


class TimeColumn:
    """Reads one column of times batch by batch.

    Numbers have one unit in all files: the one that fits most of a file's first rows. Rows without a time, with text that is
    none, or with a time outside 1980 to 2100 are counted in `left_out`.
    """

    def __init__(self, name: str, left_out: LeftOut) -> None:
        self.name, self._left_out = name, left_out
        self._file = Path()
        self._unit, self._unit_file = "", Path()  # of the first file with numbers
        self._known = False  # whether the unit of this file is known

    def begin(self, file: Path) -> None:
        """The next batches are of this file."""
        self._known = self._known and file == self._file
        self._file = file

    def read(self, column: pa.Array) -> tuple[Ints, Mask]:
        """Milliseconds [E], and which of them are times [E]."""
        column, missing_E = _without_blanks(column)
        times_ms_E, told_E = self._told(column)
        inside_E = told_E & (times_ms_E >= EARLIEST_MS) & (times_ms_E < LATEST_MS)
        if not inside_E.all():
            self._count("no time", missing_E, column, "give another column, or fill it in")
            self._count("text that is no time", ~missing_E & ~told_E, column, _WAY_OUT)
            is_time = pt.is_timestamp(column.type) or pt.is_date(column.type) or (pt.is_string(column.type) and not self._unit)
            what = "a time outside 1980 to 2100" if is_time else "a number that is no time between 1980 and 2100"
            self._count(what, told_E & ~inside_E, column, _WAY_OUT)
        return times_ms_E, inside_E

    def read_open(self, column: pa.Array) -> tuple[Ints, Mask]:
        """Milliseconds [E] where a missing time, or one past 2100, means no end; and which rows hold a time or none [E]."""
        column, missing_E = _without_blanks(column)
        times_ms_E, told_E = self._told(column)
        self._count("text that is no time", ~missing_E & ~told_E, column, _WAY_OUT)
        return np.where(missing_E | (times_ms_E > LATEST_MS), LATEST_MS, times_ms_E), missing_E | told_E

    def _told(self, column: pa.Array) -> tuple[Ints, Mask]:
        """Milliseconds, and which rows tell a time, within any years."""
        kind = column.type
        if pt.is_string(kind):
            times = parse_times(column)
            if times.null_count == len(column) or self._is_number():
                digits = pc.match_substring_regex(column, _NUMBER).fill_null(False)
                if pc.any(digits).as_py():
                    column = pc.utf8_trim_whitespace(pc.if_else(digits, column, None))
                    return self._numbers(column.cast(pa.float64()))
            column, kind = times, times.type
        if pt.is_null(kind):
            return np.zeros(len(column), np.int64), np.zeros(len(column), bool)
        if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
            return self._numbers(column)
        if not (pt.is_timestamp(kind) or pt.is_date(kind)):
            raise DataError(f"column {self.name!r} holds {kind}, which is no time: {_WAY_OUT}")
        if pt.is_date(kind):
            column = column.cast(MOMENT)
        told = column.is_valid().to_numpy(zero_copy_only=False)
        return np.floor_divide(column.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), 1000), told

    def _is_number(self) -> bool:
        return self._known and bool(self._unit)

    def _numbers(self, column: pa.Array) -> tuple[Ints, Mask]:
        told_E = column.is_valid().to_numpy(zero_copy_only=False)
        if pt.is_int64(column.type):
            values_E: Ints | npt.NDArray[np.float64] = column.fill_null(0).to_numpy(zero_copy_only=False)
        else:
            values_E = column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)
            told_E = told_E & np.isfinite(values_E)
        if not self._known:
            self._find_unit(values_E)
            if pt.is_float32(column.type):
                self._left_out.note(f"column {self.name!r} holds single floats, which round times: epoch seconds to 128 s")
        low, high = _range(self._unit or "epoch milliseconds")
        inside_E = (values_E >= low) & (values_E < high)
        inside_E = np.asarray(inside_E & told_E)
        chosen_E = np.where(inside_E, values_E, values_E.dtype.type(low))
        if self._unit == DIGITS:
            times_ms_E, real_E = _from_digits(chosen_E.astype(np.int64))
            inside_E = inside_E & real_E
        elif pt.is_int64(column.type):
            factor = UNITS[self._unit or "epoch milliseconds"]
            times_ms_E = chosen_E * int(factor) if factor >= 1 else chosen_E // round(1 / factor)
        else:
            times_ms_E = np.rint(chosen_E * UNITS[self._unit or "epoch milliseconds"]).astype(np.int64)
        return np.where(inside_E, times_ms_E, 0), told_E

    def _find_unit(self, values_E: Ints | npt.NDArray[np.float64]) -> None:
        """The unit in which most values lie between 1980 and 2100. DataError when an earlier file has another."""
        counts = {
            unit: int(((values_E >= low) & (values_E < high)).sum()) for unit in (*UNITS, DIGITS) for low, high in [_range(unit)]
        }
        unit = max(counts, key=lambda u: counts[u])
        if not counts[unit]:
            return
        if self._unit and self._unit != unit:
            raise DataError(
                f"column {self.name!r} holds {self._unit} in {self._unit_file} and {unit} in {self._file}: write one unit in all"
            )
        self._unit, self._unit_file, self._known = unit, self._unit_file if self._unit else self._file, True
        if unit != "epoch milliseconds":
            self._left_out.note(f"column {self.name!r} is read as {unit}")

    def _count(self, why: str, faulty_E: Mask, column: pa.Array, advice: str) -> None:
        num_faulty = int(faulty_E.sum())
        if num_faulty:
            value = id_texts(column.filter(pa.array(faulty_E)).slice(0, 1).cast(pa.string()))[0]
            example = "" if value is None else repr(value) if pt.is_string(column.type) else value
            self._left_out.add(self.name, f"column {self.name!r} holds {why}", num_faulty, example, advice)


def _without_blanks(column: pa.Array) -> tuple[pa.Array, Mask]:
    """The column with empty text and NaN as missing, and which rows are missing."""
    if pt.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
    if pt.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column, column.is_null().to_numpy(zero_copy_only=False)


def _range(unit: str) -> tuple[float, float]:
    if unit == DIGITS:
        return _FIRST_DIGITS, _LAST_DIGITS
    return EARLIEST_MS / UNITS[unit], LATEST_MS / UNITS[unit]


def _from_digits(values_E: Ints) -> tuple[Ints, Mask]:
    """Milliseconds of dates such as 20260105, and which of them are in the calendar."""
    return days_ms(values_E // 10_000, values_E // 100 % 100, values_E % 100)
