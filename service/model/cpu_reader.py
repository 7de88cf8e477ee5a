"""The reader on a CPU: histories with one new event are read together, and queries are made one by one.

T: events read at once, of all histories
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.histories.history import StoredEvent
from service.model.event_contexts import Contexts
from service.model.incremental import Incremental
from service.model.item_vectors import ItemVectors
from service.model.query_vectors import query_vectors, searched_vector
from service.model.reader import Question, UserQuery
from service.states.memory import ArrayMemory, PastParts
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats, Ints, event_time_features

TOLERANCE = 1e-3  # of a score; rounding changes a score by a hundredth of that


class CpuReader:
    """Implements `Reader` with `Incremental`."""

    def __init__(self, towers: Towers, vectors: ItemVectors, rows: Mapping[str, int]) -> None:
        self._towers, self._config, self._vectors, self._rows = towers, towers.config.model, vectors, rows
        self._model = Incremental(towers.contextualizer, self._config)
        self._contexts = Contexts(towers, self._model.embed_slots, self._config.width)
        self._no_past_parts = self._model.no_past_parts()

    @property
    def tolerance(self) -> float:
        """See `Reader`."""
        return TOLERANCE

    def new_memory(self) -> ArrayMemory:
        """See `Reader`."""
        return ArrayMemory(self._config)

    def past_parts(self, rows_M: Ints) -> PastParts:
        """See `Reader`."""
        return self._model.past_parts(self._vectors.take(rows_M).numpy()) if len(rows_M) else self._no_past_parts

    def answer(self, questions: Sequence[Question]) -> list[UserQuery]:
        """See `Reader`. It searches for no other items."""
        unread = [(q, q.memory.length) for q in questions if q.memory.length < len(q.events)]
        for single in (True, False):
            group = [(q, kept) for q, kept in unread if (len(q.events) - kept == 1) is single]
            if group:
                self._read(group)
        return [self._query(question) for question in questions]

    def _read(self, group: Sequence[tuple[Question, int]]) -> None:
        """Read the events after the kept ones of each history."""
        new = [event for question, kept in group for event in question.events[kept:]]
        items_TD = self._vectors_of(new)
        times_T6 = np.concatenate([new_times(question.events, kept) for question, kept in group])
        contexts_TD = self._contexts.of(new) + self._model.embed_numbers(self._contexts.numbers(new))
        events_TD = self._model.embed_events(items_TD, times_T6, contexts_TD)
        memories = [_memory_of(question) for question, _ in group]
        self._model.read(memories, [len(question.events) - kept for question, kept in group], events_TD)

    def _vectors_of(self, events: Sequence[StoredEvent]) -> Floats:
        """The vectors [T, D] of the items of events, and of the queries of searches."""
        rows = np.array([self._rows[e.item_id] for e in events if e.item_id is not None], np.int64)
        items_MD = self._vectors.take(rows)[:, : self._config.width].numpy()
        if len(rows) == len(events):
            return items_MD
        is_search_T = np.array([event.item_id is None for event in events])
        vectors_TD = np.empty((len(events), self._config.width), np.float32)
        vectors_TD[~is_search_T], vectors_TD[is_search_T] = items_MD, query_vectors(self._towers, events)
        return vectors_TD

    def _query(self, question: Question) -> UserQuery:
        features_M6, activity_6, parts = question.features_M6, question.activity_6, question.past.parts
        wanted_D = self._contexts.wanted(question.wanted_event_type)
        beside = np.concatenate([question.times_R, activity_6])
        query_X = self._model.query(_memory_of(question).last_D, wanted_D, beside, features_M6, parts)
        query_V = self._model.vector(query_X)
        if (added_D := searched_vector(self._towers, question.events, question.now_ms)) is not None:
            query_V[: len(added_D)] += added_D
        past_scores_M = parts.vector_MV @ query_V + self._model.repeat_scores(query_X, features_M6, activity_6, parts)
        return UserQuery(query_V, question.past.statistics.item_rows_M, past_scores_M)


def _memory_of(question: Question) -> ArrayMemory:
    assert isinstance(question.memory, ArrayMemory), "the memory is of this reader"
    return question.memory


def new_times(events: Sequence[StoredEvent], kept: int) -> Floats:
    """Time features [T, 6] of the events after the first `kept`. They need the time of the event before."""
    times_ms = np.array([event.time_ms for event in events[max(kept - 1, 0) :]], np.int64)
    return event_time_features(times_ms)[min(kept, 1) :]
