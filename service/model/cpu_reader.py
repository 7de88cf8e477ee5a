"""The reader on a CPU: a single new event of a user is read by compiled code, several events of all users together.

Queries are made one by one.

T: events read at once, of all histories
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from service.compiled.functions import CompiledModel, compiled_model
from service.histories.history import StoredEvent
from service.model.event_contexts import Contexts
from service.model.incremental import Incremental
from service.model.item_vectors import ItemVectors
from service.model.query_vectors import query_vectors, searched_vector
from service.model.reader import Question, UserQuery
from service.states.memory import ArrayMemory
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats, Ints, event_time_features

TOLERANCE = 1e-3  # of a score; rounding changes a score by a hundredth of that
_TOLERANCES = {torch.float32: TOLERANCE, torch.bfloat16: 1e-1}  # of products in this dtype


class CpuReader:
    """Implements `Reader` with `Incremental`."""

    def __init__(self, towers: Towers, vectors: ItemVectors, rows: Mapping[str, int], dtype: torch.dtype = torch.float32) -> None:
        self._towers, self._config, self._vectors, self._rows = towers, towers.config.model, vectors, rows
        self._model = Incremental(towers.contextualizer, self._config, dtype)
        self._tolerance = _TOLERANCES[dtype]
        self._contexts = Contexts(towers, self._model.embed_slots, self._config.width)
        self._no_past_parts = self._model.no_past_parts()
        self._compiled = compiled_model(self._model.weights)
        self._nothing_D = np.zeros(self._config.width, np.float32)

    @property
    def tolerance(self) -> float:
        """See `Reader`."""
        return self._tolerance

    def new_memory(self) -> ArrayMemory:
        """See `Reader`."""
        return ArrayMemory(self._config)

    def past_parts(self, rows_M: Ints) -> Floats:
        """See `Reader`."""
        if not len(rows_M):
            return self._no_past_parts
        vectors_MV = self._vectors.take(rows_M).numpy()
        return self._compiled.keep(vectors_MV[0]) if self._compiled and len(rows_M) == 1 else self._model.past_parts(vectors_MV)

    def answer(self, questions: Sequence[Question]) -> list[UserQuery]:
        """See `Reader`. It searches for no other items."""
        unread = [(q, q.memory.length) for q in questions if q.memory.length < len(q.events)]
        one = [(q, kept) for q, kept in unread if len(q.events) == kept + 1]
        if one and self._compiled:
            for question, _ in one:
                self._read_one(self._compiled, question)
        elif one:
            self._read(one)
        if len(one) < len(unread):
            self._read([(q, kept) for q, kept in unread if len(q.events) > kept + 1])
        return [self._query(question) for question in questions]

    def _read_one(self, compiled: CompiledModel, question: Question) -> None:
        """Read the last event, the only new one."""
        memory, last = _memory_of(question), question.events[-1:]
        before_ms = question.events[-2].time_ms if memory.length else -1
        item_D, context_D = self._vectors_of(last)[0], self._contexts.of(last)[0]
        compiled.read(item_D, context_D, self._contexts.values(last[0]), (before_ms, last[0].time_ms), memory)

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
        past, now_ms, memory = question.past.rows, question.now_ms, _memory_of(question)
        hidden_D = self._model.hidden(memory.last_D, self._contexts.wanted(question.wanted_event_type))
        added_D = searched_vector(self._towers, question.events, now_ms)
        if added_D is None:
            added_D = self._nothing_D
        if self._compiled:
            last_ms = question.events[-1].time_ms if question.events else now_ms
            query_V, scores_M = self._compiled.ask(hidden_D, added_D, past, now_ms, last_ms)
        else:
            query_V, scores_M = self._asked(question, hidden_D, added_D)
        return UserQuery(query_V, past.numbers_M4[:, 0].copy(), scores_M)

    def _asked(self, question: Question, hidden_D: Floats, added_D: Floats) -> tuple[Floats, Floats]:
        """As `CompiledModel.ask`, with numpy."""
        features_M6, activity_6, parts_MS = question.features_M6, question.activity_6, question.past.rows.parts_MS
        beside = np.concatenate([question.times_7[: self._config.request_time_width], activity_6])
        query_X = self._model.query(hidden_D, beside, features_M6, parts_MS)
        query_V = self._model.vector(query_X)
        query_V[: len(added_D)] += added_D
        repeat_M = self._model.repeat_scores(query_X, features_M6, activity_6, parts_MS)
        return query_V, parts_MS[:, : len(query_V)] @ query_V + repeat_M


def _memory_of(question: Question) -> ArrayMemory:
    assert isinstance(question.memory, ArrayMemory), "the memory is of this reader"
    return question.memory


def new_times(events: Sequence[StoredEvent], kept: int) -> Floats:
    """Time features [T, 6] of the events after the first `kept`. They need the time of the event before."""
    times_ms = np.array([event.time_ms for event in events[max(kept - 1, 0) :]], np.int64)
    return event_time_features(times_ms)[min(kept, 1) :]
