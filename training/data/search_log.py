"""The searches of an event log: beside its events, which are of items, because only histories have searches among them.

Baskets, answers, popularity and the statistics of past items are of items alone, and read the events as if nobody had searched.

U: users, R: searches
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.events import EventBatch
from twotower.data.features import EncodedRows, FeatureSpec, Ints, encode_rows
from twotower.data.schema import EVENT_TYPE
from twotower.data.window import Searches


class Found(NamedTuple):
    """Searches of one batch of the log, by users that have events of items."""

    user_R: Ints
    times_ms_R: Ints
    queries: pa.Array
    context: EncodedRows


@dataclass(frozen=True, slots=True)
class SearchLog:
    """Searches of user u are rows [offsets[u], offsets[u + 1]), oldest first. In memory, unlike the events of the log."""

    offsets_U1: Ints
    times_ms_R: Ints
    before_R: Ints  # the row of the event log before which each stands: the user's first event after it, or the end
    queries: pa.Array
    context: EncodedRows

    def before(self, user: int) -> Ints:
        """The event before which each search of a user stands."""
        return self.before_R[self.offsets_U1[user] : self.offsets_U1[user + 1]]

    def of(self, user: int, first: int, last: int) -> Searches:
        """Searches [first, last) of a user."""
        part = slice(int(self.offsets_U1[user]) + first, int(self.offsets_U1[user]) + last)
        queries = tuple(self.queries[part].to_pylist())
        return Searches(queries, self.times_ms_R[part], self.context.take(part))

    def kept(self, kept_before: Ints, there_U: npt.NDArray[np.bool_]) -> "SearchLog":
        """The searches of the users that stay when events are removed. `kept_before` counts the events kept before each row."""
        mine_R = np.repeat(there_U, np.diff(self.offsets_U1))
        sizes_U = np.diff(self.offsets_U1)[there_U]
        return SearchLog(
            np.concatenate([[0], np.cumsum(sizes_U)]),
            self.times_ms_R[mine_R],
            kept_before[self.before_R[mine_R]],
            self.queries.filter(pa.array(mine_R)),
            self.context.take(np.flatnonzero(mine_R)),
        )


def found_in(batch: EventBatch, user_rows: pa.Array, spec: FeatureSpec, context_rows: int) -> Found | None:
    """The searches of a batch; `user_rows` has the number of the user of each row, null for a user without events of items."""
    if batch.queries is None:
        return None
    is_search_E, has_user_E = (column.is_valid().to_numpy(zero_copy_only=False) for column in (batch.queries, user_rows))
    rows = np.flatnonzero(is_search_E & has_user_E)
    if not len(rows):
        return None
    index = pa.array(rows)
    columns = {EVENT_TYPE: batch.event_types, **batch.features}
    context = encode_rows({name: column.take(index) for name, column in columns.items()}, spec, context_rows)
    return Found(user_rows.take(index).to_numpy().astype(np.int64), batch.times_ms_E[rows], batch.queries.take(index), context)


def search_log(found: list[Found], offsets_U1: Ints, times_ms_E: Ints) -> SearchLog | None:
    """All searches in order; those of one moment stay in the order of the file. None if there are none."""
    if not found:
        return None
    user_R, times_ms_R = (np.concatenate([getattr(part, name) for part in found]) for name in ("user_R", "times_ms_R"))
    order = np.lexsort((times_ms_R, user_R))
    user_R, times_ms_R = user_R[order], times_ms_R[order]
    num_users = len(offsets_U1) - 1
    first_U1 = np.searchsorted(user_R, np.arange(num_users + 1))
    before_R = np.empty(len(user_R), np.int64)
    for user in np.unique(user_R).tolist():
        mine = slice(first_U1[user], first_U1[user + 1])
        start, stop = offsets_U1[user], offsets_U1[user + 1]
        # After the events of its own moment: what happens at a moment is not known to a question about that moment.
        before_R[mine] = start + np.searchsorted(times_ms_E[start:stop], times_ms_R[mine], side="right")
    queries = pa.concat_arrays([part.queries for part in found]).take(pa.array(order))
    return SearchLog(
        first_U1, times_ms_R, before_R, queries, EncodedRows.concatenate([part.context for part in found]).take(order)
    )
