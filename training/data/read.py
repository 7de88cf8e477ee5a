"""Reads the data of a run: the event log, the popularity on every day, and the times that split them."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from training.data.event_log import READS, EventLog, read_event_log, train_counts
from training.data.popularity_snapshots import PopularitySnapshots, take_snapshots
from twotower.data.features import FeatureSpec, Ints
from twotower.data.schema import Schema, utc_ms
from twotower.data.signals import Signals, read_signals, require_signals
from twotower.model.catalogue import read_item_ids
from twotower.progress import say, step
from twotower.tables.table import open_table


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a run, and the times that split it into training, validation and test."""

    schema: Schema
    item_ids: pa.Array
    log: EventLog
    snapshots: PopularitySnapshots
    train_until_ms: int
    test_from_ms: int
    end_ms: int
    signals: Signals | None = None

    @property
    def train_count_N(self) -> Ints:
        """Number of training events of each item."""
        return train_counts(self.log, self.train_until_ms, len(self.item_ids))


def read_data(
    events: Path,
    items: Path,
    schema: Schema,
    half_lives_days: tuple[float, ...],
    context_rows: int,
    context_spec: FeatureSpec | None = None,
    signals: Path | None = None,
) -> Data:
    """Read events, signals and item ids as streams. The schema must have a split. With a bundle, give its `context_spec`.

    DataError when the schema names signals but no file is given, or the other way round.
    """
    split = schema.require_split()
    require_signals(schema.signals, signals)
    item_ids = read_item_ids(items, schema.items)
    with step("read events", total=READS * open_table(events, "events").num_rows, unit="events") as work:
        log = read_event_log(events, schema, item_ids, context_rows, context_spec, work.advance)
        announced = read_signals(signals, schema.signals, item_ids) if signals and schema.signals else None
        snapshots = take_snapshots(log, len(item_ids), half_lives_days, announced)
    for line in [*log.report.lines(), *(announced.report.lines() if announced else [])]:
        say(f"  {line}")
    end_ms = int(log.times_ms_E.max()) + 1
    return Data(schema, item_ids, log, snapshots, utc_ms(split.validation_from), utc_ms(split.test_from), end_ms, announced)
