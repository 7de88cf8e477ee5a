"""What a reader is: it reads the new events of users into their memories, and makes queries.

There are two, which compute the same: `cpu_reader` and `device_reader`. A release has one, used by the engine's thread alone.

M: past items of one request, V: vector width, K: results
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from service.histories.history import StoredEvent
from service.states.memory import Memory
from service.states.user_state import PastState
from twotower.data.features import Floats, Ints, request_time_features
from twotower.data.item_statistics import activity_features, past_features


class Question(NamedTuple):
    """What a reader needs to know of one request. The memory is of events at the beginning of `events`."""

    memory: Memory
    events: tuple[StoredEvent, ...]  # the window of the history, without events that the model does not read
    past: PastState
    wanted_event_type: str | None
    now_ms: int
    num_others: int = 0  # how many of the best items that are not past items to search for, if the reader can

    @property
    def features_M6(self) -> Floats:
        """Features of the past items at the moment of the request."""
        return past_features(self.past.statistics, self.now_ms)

    @property
    def activity_6(self) -> Floats:
        """Activity of the user at that moment."""
        activity_16 = activity_features(self.past.statistics, np.zeros(self.past.rows.num, np.int64), np.array([self.now_ms]))
        activity_6: Floats = activity_16[0]
        return activity_6

    @property
    def times_7(self) -> Floats:
        """Time features of the request; how many of the first of them the model reads is a matter of its configuration."""
        now_1, last_ms = np.array([self.now_ms]), self.events[-1].time_ms if self.events else self.now_ms
        times_7: Floats = request_time_features(now_1, np.array([last_ms]))[0]
        return times_7


@dataclass(frozen=True, slots=True)
class UserQuery:
    """The query vector of one request, and the full scores of its past items.

    The score of any other item is the inner product of its vector with the query. A past item's score here also includes its
    repeat score.
    """

    query_V: Floats
    past_rows_M: Ints
    past_scores_M: Floats
    others: tuple[Ints, Floats] | None = None  # rows and scores of the best other items, best first; None: not searched for


class Reader(Protocol):
    """Reads new events and makes queries, for one release."""

    @property
    def tolerance(self) -> float:
        """How much a score may change when a user state is computed anew. Rounding changes it by far less."""

    def new_memory(self) -> Memory:
        """The memory of a history of which nothing was read."""

    def past_parts(self, rows_M: Ints) -> Floats:
        """What is kept of past items, given by their rows: one row of floats for each."""

    def answer(self, questions: Sequence[Question]) -> list[UserQuery]:
        """Read what is new of each history into its memory, then make the queries. No memory may occur twice."""
