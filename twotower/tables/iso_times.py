"""Times written as text: ISO 8601 as tools write it.

E: rows of a batch
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.tables.plain import INSTANT, MOMENT

_ISO = (
    r"^\s*(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<ahead>\d\d)(?::?(?P<minutes>\d\d))?)?\s*$"
)

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def days_ms(year_E: Ints, month_E: Ints, day_E: Ints) -> tuple[Ints, Mask]:
    """Milliseconds at the beginning of days, and which of them are in the calendar."""
    months = (year_E - 1970) * 12 + month_E - 1
    first, after = (m.astype("datetime64[M]").astype("datetime64[D]") for m in (months, months + 1))
    real = (month_E >= 1) & (month_E <= 12) & (day_E >= 1) & (day_E <= (after - first).astype(np.int64))
    return (first + (day_E - 1)).astype("datetime64[ms]").astype(np.int64), real


def parse_times(texts: pa.Array) -> pa.Array:
    """timestamp[us, UTC] of ISO 8601 texts; missing where a text is no time.

    A date alone, or a time after `T` or a space, with or without seconds and a fraction; then `Z`, ` UTC`, `+02:00`, `-0500`, or
    nothing, which is UTC too.
    """
    for kind in (MOMENT, INSTANT):
        try:
            return texts.cast(kind).view(INSTANT)
        except pa.ArrowInvalid:
            continue
    return _from_parts(pc.extract_regex(texts, _ISO))


def _from_parts(parts: pa.StructArray) -> pa.Array:
    def number(name: str, default: str = "0") -> Ints:
        column = parts.field(name)
        filled = pc.if_else(pc.equal(pc.binary_length(column), 0), default, column.cast(pa.string())).fill_null(default)
        result: Ints = filled.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return result

    date_ms, real = days_ms(number("year", "1970"), number("month", "1"), number("day", "1"))
    hour, minute, second = number("hour"), number("minute"), number("second")
    ahead, minutes = number("ahead"), number("minutes")
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(parts.field("fraction").cast(pa.string()), 6, "0"), 0, 6)
    micro = fraction.fill_null("0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    sign = np.where(pc.equal(parts.field("sign").cast(pa.string()), "-").fill_null(False).to_numpy(zero_copy_only=False), -1, 1)
    real &= (hour <= 23) & (minute <= 59) & (second <= 60) & (ahead <= 14) & (minutes <= 59)
    real &= parts.is_valid().to_numpy(zero_copy_only=False)
    seconds = hour * 3600 + minute * 60 + second - sign * (ahead * 3600 + minutes * 60)
    return pa.array((date_ms // 1000 + seconds) * 10**6 + micro, mask=~real).view(INSTANT)
