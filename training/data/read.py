"""What a run reads: the event log, the popularity of every day, and the moments that divide them."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from training.data.event_log import READS, EventLog, read_event_log, train_counts
from training.data.popularity_snapshots import PopularitySnapshots, take_snapshots
from twotower.data.events import count_rows
from twotower.data.features import FeatureSpec, Ints
from twotower.data.schema import Schema, utc_ms
from twotower.data.signals import Signals, read_signals, require_signals
from twotower.model.catalogue import read_item_ids
from twotower.progress import say, step


@dataclass(frozen=True, slots=True)
class Data:
    """What a run reads, and the moments that divide it."""

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
        """Events of each item in training."""
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
    """Stream events, signals and item ids; the schema must have a split. A bundle brings its own `context_spec`.

    DataError when the schema names signals and no file of them is given, or the other way round.
    """
    split = schema.require_split()
    require_signals(schema.signals, signals)
    item_ids = read_item_ids(items, schema.items)
    with step("read events", total=READS * count_rows(events, "events"), unit="events") as work:
        log = read_event_log(events, schema, item_ids, context_rows, context_spec, work.advance)
        announced = read_signals(signals, schema.signals, item_ids) if signals and schema.signals else None
        snapshots = take_snapshots(log, len(item_ids), half_lives_days, announced)
    for line in [*log.report.lines(), *(announced.report.lines() if announced else [])]:
        say(f"  {line}")
    end_ms = int(log.times_ms_E.max()) + 1
    return Data(schema, item_ids, log, snapshots, utc_ms(split.validation_from), utc_ms(split.test_from), end_ms, announced)
