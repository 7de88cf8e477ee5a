"""Numbers, times and names as every page writes them."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

NOTHING = "–"  # where a value is missing
SPACE = "\u00a0"  # between a number and its unit, so that no line ends there


def metric(value: float | None) -> str:
    """A metric with four decimals, a large one without; a dash for none."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def spread(low: float, high: float, digits: int = 4) -> str:
    """An interval of a metric."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def signed_spread(low: float, high: float, digits: int = 4) -> str:
    """An interval of a difference."""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f}{SPACE}%"


def short(value: float, unit: str = "") -> str:
    """Three digits of a number, and its unit."""
    digits = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return f"{digits}{SPACE}{unit}" if unit else digits


def written(value: object) -> str:
    """One value of a configuration."""
    if isinstance(value, list | tuple):
        return " ".join(map(written, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def plain(values: Mapping[str, object]) -> dict[str, str]:
    """Names and values of a configuration."""
    return {words(name): written(value) for name, value in values.items()}


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f}{SPACE}s"
    return f"{seconds / 60:.0f}{SPACE}minutes" if seconds < 5400 else f"{seconds / 3600:.1f}{SPACE}hours"


def moment(iso: str) -> str:
    """A time in UTC, to the minute."""
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def moment_of(time_ms: int) -> str:
    """A time in UTC that is given in milliseconds."""
    return moment(datetime.fromtimestamp(time_ms / 1000, UTC).isoformat())


def now() -> str:
    """The present moment."""
    return moment(datetime.now(UTC).isoformat())
