"""What a reader is: it reads the new events of users into their memories, and makes queries.

There are two, which compute the same: `cpu_reader` and `device_reader`. A release has one, used by the engine's thread alone.

M: past items of one request, V: vector width, R: time features of a request, K: results
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.histories.history import StoredEvent
from service.states.memory import Memory, PastParts
from service.states.user_state import PastState
from twotower.data.features import Floats, Ints


class Question(NamedTuple):
    """What a reader needs to know of one request. The memory is of events at the beginning of `events`."""

    memory: Memory
    events: tuple[StoredEvent, ...]  # the window of the history, without events that the model does not read
    past: PastState
    features_M6: Floats  # of the past items at the moment of the request
    activity_6: Floats
    times_R: Floats
    wanted_event_type: str | None
    now_ms: int
    num_others: int = 0  # how many of the best items that are not past items to search for, if the reader can


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

    def past_parts(self, rows_M: Ints) -> PastParts:
        """What is kept of past items, given by their rows."""

    def answer(self, questions: Sequence[Question]) -> list[UserQuery]:
        """Read what is new of each history into its memory, then make the queries. No memory may occur twice."""
