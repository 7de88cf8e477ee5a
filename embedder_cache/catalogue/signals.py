"""The signal dimensions of a release: the values announced for the day that begins when the release is made.

N: items, S: signals
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.artefacts.bundle import Towers
from twotower.data.features import DAY_MS, Floats
from twotower.data.signals import read_signals, require_signals
from twotower.progress import say


def announced(path: Path | None, towers: Towers, item_ids: pa.Array, as_of_ms: int | None) -> Floats:
    """Values [N, S] for the 24 hours from `as_of_ms` (None: from now). Without a file they are zero, never those of training.

    DataError when there is a file and the towers know no signals.
    """
    columns = towers.schema.signals
    if columns is None or path is None:
        if path is not None:
            require_signals(columns, path)
        if columns is not None:
            say(f"  WARNING: no --signals given, so nothing is announced: {', '.join(columns.features)} are 0 for every item")
        return np.zeros((len(item_ids), towers.config.num_signals), np.float32)
    from_ms = time.time_ns() // 1_000_000 if as_of_ms is None else as_of_ms
    signals = read_signals(path, columns, item_ids, from_ms, from_ms + DAY_MS)
    values_NS = signals.day(from_ms)
    for line in signals.report.lines():
        say(f"  {line}")
    moment = datetime.fromtimestamp(from_ms / 1000, UTC)
    say(f"  {int(values_NS.any(1).sum()):,} items are announced for the day from {moment:%Y-%m-%d %H:%M} UTC")
    return values_NS
