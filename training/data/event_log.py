"""The event log as sequences of users, in memory maps on disk: written in two streaming passes, so never in memory as a whole.

U: users, E: events, S: hash slots of an event's context, F: its dense features
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.data.search_log import Found, SearchLog, found_in, search_log
from twotower.data.events import EventBatch, stream_events
from twotower.data.features import (
    EncodedRows,
    FeatureSpec,
    FieldSpec,
    Ints,
    encode_rows,
    fingerprint,
    hash_slots,
    quantile_edges,
    to_floats,
)
from twotower.data.schema import EVENT_TYPE, Schema, utc_ms
from twotower.data.window import History
from twotower.errors import DataError
from twotower.tables.left_out import LeftOut, Reason

READS = 2  # passes over the event file
SORT_EVENTS = 1_000_000  # events sorted at a time
SAMPLE_EVENTS = 200_000  # training rows on which bins are fitted


@dataclass(frozen=True, slots=True)
class LogReport:
    """How many events were read, and how many of them cannot be used and why."""

    num_events: int
    num_used: int
    num_users: int
    unknown_items: int
    unknown_item_examples: tuple[str, ...]
    left_out: tuple[Reason, ...]  # for other reasons
    notes: tuple[str, ...]  # how columns were read, where that is not plain
    num_searches: int = 0  # among the events, and not among those used

    def lines(self) -> list[str]:
        """Lines for the terminal: one for all events, and one for each reason why events are left out."""
        searches = f", {self.num_searches:,} searches" if self.num_searches else ""
        lines = [f"{self.num_events:,} events of {self.num_users:,} users, {self.num_used:,} used{searches}", *self.notes]
        if self.unknown_items:
            names = ", ".join(self.unknown_item_examples)
            lines.append(f"{self.unknown_items:,} events left out: their items are not in the catalogue (such as {names})")
        return lines + [f"{reason.count:,} events left out: {reason.why}" for reason in self.left_out]


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events of user u are rows [offsets[u], offsets[u + 1]), oldest first.

    Events with the same time (a basket) are ordered by the hashes of their item ids, whatever their order in the file.
    """

    user_ids: list[str]
    offsets_U1: Ints
    item_rows_E: npt.NDArray[np.int32]
    times_ms_E: Ints
    types_E: npt.NDArray[np.int16]
    event_types: list[str]
    context: EncodedRows
    context_spec: FeatureSpec
    report: LogReport
    searches: SearchLog | None = None

    @property
    def num_users(self) -> int:
        """Users with at least one usable event."""
        return len(self.user_ids)

    def span(self, user: int) -> tuple[int, int]:
        """The rows [start, stop) of a user's events."""
        return int(self.offsets_U1[user]), int(self.offsets_U1[user + 1])

    def history(self, start: int, stop: int, order: Ints | None = None) -> History:
        """The rows [start, stop), which must be of one user, optionally reordered by `order`."""
        index = np.arange(start, stop) if order is None else start + order
        return History(self.item_rows_E[index].astype(np.int64), self.times_ms_E[index], self.context.take(index))

    def num_known(self, user: int, rows: Ints) -> Ints:
        """How many events and searches of a user are known to a question about the moment of the event in each row."""
        num_known: Ints = rows - self.offsets_U1[user]
        if self.searches is not None:
            num_known = num_known + np.searchsorted(self.searches.before(user), rows, side="right")
        return num_known

    def first_row(self, user: int, first: int) -> int:
        """The row of the first event after the first so many events and searches of a user."""
        return int(self.offsets_U1[user]) + first - self._num_searches(user, first)

    def window(self, user: int, first: int, stop: int, order: Ints | None = None) -> History:
        """Events and searches of a user: without the first so many, up to those known at the event in row `stop`.

        `order` is that of the events from `first_row` on.
        """
        row = self.first_row(user, first)
        history = self.history(row, stop, order)
        if self.searches is None:
            return history
        before = self.searches.before(user)
        begin, end = self._num_searches(user, first), int(np.searchsorted(before, stop, side="right"))
        return history.with_searches(self.searches.of(user, begin, end), np.maximum(before[begin:end] - row, 0))

    def _num_searches(self, user: int, first: int) -> int:
        """How many of the first so many events and searches of a user are searches."""
        if self.searches is None:
            return 0
        before = self.searches.before(user) - self.offsets_U1[user]
        return int(np.searchsorted(before + np.arange(len(before)), first))


def read_event_log(
    path: Path,
    schema: Schema,
    item_ids: pa.Array,
    context_rows: int,
    context_spec: FeatureSpec | None = None,
    on_events: Callable[[int], None] = lambda _: None,
) -> EventLog:
    """Read the events twice: first to count them and to fit the context's spec (unless one is given), then to store them.

    The files of the memory maps vanish when the process ends.
    """
    counts, fitted, types, report = _first_pass(path, schema, item_ids, on_events)
    spec = context_spec or fitted
    user_ids = sorted(counts)
    offsets_U1 = np.concatenate([[0], np.cumsum([counts[u] for u in user_ids])]).astype(np.int64)
    log = _allocate(user_ids, offsets_U1, types, spec, report)
    free = offsets_U1[:-1].copy()
    row_of_user = pa.array(user_ids)
    row_of_type = pa.array(types)
    searches: list[Found] = []
    for batch in stream_events(path, schema.events, tuple(schema.events.features)):
        user_rows = pc.index_in(batch.user_ids, row_of_user)
        _place(batch, log, item_ids, user_rows, row_of_type, free, context_rows)
        if found := found_in(batch, user_rows, spec, context_rows):
            searches.append(found)
        on_events(len(batch))
    _sort(log, fingerprint("order inside a basket", item_ids))
    return replace(log, searches=search_log(searches, offsets_U1, log.times_ms_E))


def _first_pass(
    path: Path, schema: Schema, item_ids: pa.Array, on_events: Callable[[int], None]
) -> tuple[Counter[str], FeatureSpec, list[str], LogReport]:
    """Returns events per user, the context's spec fitted on training rows, the event types, and the report."""
    train_until = utc_ms(schema.split.validation_from) if schema.split else np.iinfo(np.int64).max
    users: Counter[str] = Counter()
    types: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    samples = {name: _Sample() for name, kind in schema.events.features.items() if kind == "numeric"}
    left_out, num_searches = LeftOut(), 0
    for batch in stream_events(path, schema.events, tuple(schema.events.features), left_out):
        no_item, no_user = pc.equal(batch.item_ids, ""), pc.equal(batch.user_ids, "")
        known = pc.is_in(batch.item_ids, item_ids)
        _count(unknown, batch.item_ids.filter(pc.and_not(pc.invert(known), no_item)))
        _count(users, batch.user_ids.filter(pc.and_not(known, no_user)))
        _count(types, batch.event_types)
        num_searches += 0 if batch.queries is None else len(batch.queries) - batch.queries.null_count
        training = batch.times_ms_E < train_until
        for name, sample in samples.items():
            sample.add(batch.times_ms_E[training], to_floats(batch.features[name], name)[training])
        on_events(len(batch))
    if not users:
        told, known = next(iter(unknown), ""), item_ids[0].as_py() if len(item_ids) else ""
        raise DataError(
            f"{path}: none of the {left_out.num_rows:,} events is of an item in the catalogue; do both files use the same ids? "
            f"Column {schema.events.item_id!r} holds {told!r}, the catalogue's {schema.items.item_id!r} holds {known!r}"
        )
    if len(types) > np.iinfo(np.int16).max:
        raise DataError(f"{path}: {len(types):,} event types; is {schema.events.event_type!r} the right column for event_type?")
    fields = [FieldSpec(name=EVENT_TYPE, kind="categorical")]
    for name, kind in schema.events.features.items():
        edges = quantile_edges(samples[name].values) if kind == "numeric" else ()
        fields.append(FieldSpec(name=name, kind=kind, edges=edges))
    examples = tuple(name for name, _ in unknown.most_common(3))
    reasons, notes = left_out.reasons, tuple(left_out.notes)
    report = LogReport(left_out.num_rows, users.total(), len(users), unknown.total(), examples, reasons, notes, num_searches)
    return users, FeatureSpec(fields=tuple(fields)), sorted(types), report


class _Sample:
    """A sample of bounded size that does not depend on the order of the file: the rows with the lowest hashes."""

    def __init__(self) -> None:
        self.keys = np.zeros(0, np.int64)
        self.values = np.zeros(0, np.float64)

    def add(self, times_ms: Ints, values: npt.NDArray[np.float64]) -> None:
        """Add rows, and keep those with the lowest hashes."""
        prints = hash_slots(times_ms.astype(np.uint64), 1, 2**31 - 1)[0][:, 0].astype(np.uint64) ^ values.view(np.uint64)
        keys = hash_slots(prints, 1, 2**31 - 1)[0][:, 0].astype(np.int64)
        keys, values = np.concatenate([self.keys, keys]), np.concatenate([self.values, values])
        kept = np.lexsort((values, keys))[:SAMPLE_EVENTS]
        self.keys, self.values = keys[kept], values[kept]


def _count(counter: Counter[str], values: pa.Array) -> None:
    counts = pc.value_counts(values)
    counter.update(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def _allocate(user_ids: list[str], offsets_U1: Ints, types: list[str], spec: FeatureSpec, report: LogReport) -> EventLog:
    """An empty log of the right size in memory maps, whose files vanish when the process ends."""
    num_events, num_slots = int(offsets_U1[-1]), sum(spec.slot_counts)
    return EventLog(
        user_ids=user_ids,
        offsets_U1=offsets_U1,
        item_rows_E=_map(np.int32, (num_events,)),
        times_ms_E=_map(np.int64, (num_events,)),
        types_E=_map(np.int16, (num_events,)),
        event_types=types,
        context=EncodedRows(
            _map(np.int32, (num_events, num_slots)),
            _map(np.float32, (num_events, num_slots)),
            _map(np.float32, (num_events, spec.dense_width)),
        ),
        context_spec=spec,
        report=report,
    )


def _map(dtype: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="twotower-") as file:
        # As a plain array, because slicing a memmap takes ten times as long.
        return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)


def _place(
    batch: EventBatch, log: EventLog, item_ids: pa.Array, user_rows: pa.Array, types: pa.Array, free: Ints, context_rows: int
) -> None:
    """Write the usable rows of a batch after the rows that their users already have."""
    item_rows = pc.index_in(batch.item_ids, item_ids)
    usable = pc.and_(item_rows.is_valid(), user_rows.is_valid()).to_numpy(zero_copy_only=False)
    user_E = user_rows.fill_null(0).to_numpy(zero_copy_only=False)[usable].astype(np.int64)
    order = np.argsort(user_E, kind="stable")
    starts = np.flatnonzero(np.diff(user_E[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    first = free[user_E[order[starts]]]
    where = np.empty(len(order), np.int64)
    where[order] = np.repeat(first - starts, lengths) + np.arange(len(order))
    free[user_E[order[starts]]] += lengths
    log.item_rows_E[where] = item_rows.fill_null(0).to_numpy(zero_copy_only=False)[usable]
    log.times_ms_E[where] = batch.times_ms_E[usable]
    log.types_E[where] = pc.index_in(batch.event_types, types).to_numpy(zero_copy_only=False)[usable]
    encoded = encode_rows({EVENT_TYPE: batch.event_types, **batch.features}, log.context_spec, context_rows).take(usable)
    log.context.slots_NS[where] = encoded.slots_NS
    log.context.weights_NS[where] = encoded.weights_NS
    log.context.dense_NF[where] = encoded.dense_NF


def _sort(log: EventLog, prints_N: npt.NDArray[np.uint64]) -> None:
    """Sort the events of every user by time and, at the same time, by the hash of the item id."""
    user = 0
    while user < log.num_users:
        stop_user = int(np.searchsorted(log.offsets_U1, log.offsets_U1[user] + SORT_EVENTS, "right")) - 1
        stop_user = max(stop_user, user + 1)
        start, stop = int(log.offsets_U1[user]), int(log.offsets_U1[stop_user])
        owner = np.repeat(np.arange(user, stop_user), np.diff(log.offsets_U1[user : stop_user + 1]))
        order = np.lexsort((prints_N[log.item_rows_E[start:stop]], log.times_ms_E[start:stop], owner))
        context = log.context
        arrays: list[npt.NDArray[Any]] = [log.item_rows_E, log.times_ms_E, log.types_E]
        for array in (*arrays, context.slots_NS, context.weights_NS, context.dense_NF):
            array[start:stop] = array[start:stop][order]
        user = stop_user


def basket_starts(times_ms: Ints) -> Ints:
    """First index of each basket: a run of events with equal times, in the sorted events of one user."""
    return np.flatnonzero(np.diff(times_ms, prepend=times_ms[0] - 1)) if len(times_ms) else np.zeros(0, np.int64)


def train_counts(log: EventLog, until_ms: int, num_items: int) -> Ints:
    """Number of events of each item before `until_ms`, [N]."""
    return np.bincount(log.item_rows_E[log.times_ms_E < until_ms], minlength=num_items)
