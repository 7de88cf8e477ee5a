"""The reader on a device: all of a batch is computed with one copy to the device and one from it.

A cold history, an appended event and everything between are one case: some new events, read against the pages of the events
before them. The same code runs on CPU tensors, where the operations take their torch references.

T: new events of all histories, Q: requests, M: past items of all requests, S: hash slots
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from service.kernels.item_rows import ItemRows
from service.kernels.topk import top_k
from service.model.cpu_reader import new_times
from service.model.device_model import DeviceModel, graphs
from service.model.event_contexts import Contexts
from service.model.packing import Array, Inputs, Shape
from service.model.pages import PagedMemory
from service.model.query_vectors import query_vectors, searched_vector
from service.model.reader import Question, UserQuery
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats, Ints, Rows

# Of a score, when a state is computed anew: other sizes of products round differently, and in half precision by far more.
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_EVENTS = 16  # numbers of new events are rounded up to multiples
_LEAST_PAST, _LEAST_FOUND = 64, 16  # numbers of past items and of results are rounded up to powers of two, at least these


class DeviceReader:
    """Implements `Reader` on a device."""

    def __init__(self, model: DeviceModel, towers: Towers, rows: Mapping[str, int], added_AV: Tensor | None) -> None:
        self._model, self._towers, self._config, self._rows = model, towers, towers.config.model, rows
        self._contexts = Contexts(towers, _kept, 2 * sum(self._config.context_spec.slot_counts))
        self._has_changes = added_AV is not None
        self._added_AV = None if added_AV is None or not len(added_AV) else added_AV.to(model.device)

    @property
    def tolerance(self) -> float:
        """See `Reader`."""
        return _TOLERANCES[self._model.dtype]

    def new_memory(self) -> PagedMemory:
        """See `Reader`."""
        return PagedMemory(self._model.pool)

    def past_parts(self, rows_M: Ints) -> Floats:
        """See `Reader`. Nothing is kept: what the model computes of past items is computed on the device with every request."""
        return np.zeros((len(rows_M), 0), np.float32)

    def answer(self, questions: Sequence[Question]) -> list[UserQuery]:
        """See `Reader`. After an error, such as too little memory on the device, the memories of its batch are empty."""
        model = self._model
        if not model.graphs and model.device.type == "cuda":  # the first batch is one of the warm-up
            model.capture(graphs())
        # After a search the query is known here only, so that no other items can be searched for with it there.
        questions = [q._replace(num_others=0) if q.events and q.events[-1].query else q for q in questions]
        queries: list[UserQuery] = []
        for part in self._parts(questions):
            memories = [_memory_of(question) for question in part]
            for memory, question in zip(memories, part, strict=True):
                memory.cut(max(len(question.events) - 1, 0))  # the hidden state after the last event is not kept
            try:
                model.pool.make_room(memories, [len(question.events) for question in part])
                queries += self._answer(part, memories)
            except Exception as error:
                model.pool.drop(memories)
                if isinstance(error, torch.OutOfMemoryError) and model.device.type == "cuda":
                    torch.cuda.empty_cache()
                raise
            model.pool.put_back(memories)
        return queries

    def _parts(self, questions: Sequence[Question]) -> Iterator[list[Question]]:
        """The questions in parts whose pages are together no more than the pool has. Mostly that is one part."""
        pool, part, num_pages = self._model.pool, list[Question](), 0
        for question in questions:
            needed = -(-len(question.events) // pool.page)
            if part and num_pages + needed > pool.num_pages:
                yield part
                part, num_pages = [], 0
            part.append(question)
            num_pages += needed
        if part:
            yield part

    def _answer(self, questions: Sequence[Question], memories: Sequence[PagedMemory]) -> list[UserQuery]:
        model, starts = self._model, [memory.length for memory in memories]
        shape = self._shape(questions, starts)
        is_pinned = model.device.type == "cuda"
        buffer = torch.zeros(model.layout.num_numbers(shape), dtype=torch.int32, pin_memory=is_pinned)
        self._fill(model.layout.views(buffer, shape), questions, memories, starts, shape)
        added_AV = self._with_searches(questions, starts)
        graph = None if self._has_changes or added_AV is not None else model.graphs.get(shape)
        if graph is None:
            results = model.results(buffer.to(model.device, non_blocking=True), shape, added_AV)
        else:
            on_device, replay = graph
            on_device.copy_(buffer, non_blocking=True)
            results = replay()
        parts = [part.numpy() for part in model.parts_of(results.cpu(), shape)]
        for memory, question in zip(memories, questions, strict=True):
            memory.grown(len(question.events))
        return self._queries(questions, parts)

    def _with_searches(self, questions: Sequence[Question], starts: Sequence[int]) -> Tensor | None:
        """The rows that follow those of the release: added items, then the queries of the new searches of the batch."""
        new = [event for question, start in zip(questions, starts, strict=True) for event in question.events[start:]]
        if all(event.query is None for event in new):
            return self._added_AV
        vectors_SD = torch.from_numpy(query_vectors(self._towers, new))
        vectors_SV = pad(vectors_SD, (0, self._model.vectors_NV.shape[1] - vectors_SD.shape[1])).to(self._model.device)
        return vectors_SV if self._added_AV is None else torch.cat([self._added_AV, vectors_SV])

    def _shape(self, questions: Sequence[Question], starts: Sequence[int]) -> Shape:
        """The sizes of the batch: those of a graph if one has room for it, else rounded up."""
        counts = [len(question.events) - start for question, start in zip(questions, starts, strict=True)]
        found = 0 if self._has_changes or self._model.catalogue is None else max(q.num_others for q in questions)
        excluded = max(q.past.rows.num if q.num_others else 0 for q in questions) if found else 0
        num, past = _power_of_two(len(questions)), sum(question.past.rows.num for question in questions)
        if max(counts) <= 1:
            for shape in self._model.graphs:
                if (
                    shape.num_requests == num
                    and past <= shape.num_past
                    and excluded <= shape.num_excluded
                    and found <= shape.num_found
                ):
                    return shape
            num_events = num + 1  # each history has one, so that its hidden states are in order; of some it means nothing
        else:
            num_events = -(-sum(counts) // _EVENTS) * _EVENTS
        return Shape(
            num,
            num_events,
            max(1, *counts),
            max(_power_of_two(past), _LEAST_PAST),
            max(_power_of_two(excluded), _LEAST_PAST) if found else 0,
            max(_power_of_two(found), _LEAST_FOUND) if found else 0,
        )

    def _fill(
        self,
        inputs: Inputs[Tensor],
        questions: Sequence[Question],
        memories: Sequence[PagedMemory],
        starts: Sequence[int],
        shape: Shape,
    ) -> None:
        """Write the batch into a buffer of zeros."""
        here = Inputs(*(part.numpy() for part in inputs))
        counts = [len(question.events) - start for question, start in zip(questions, starts, strict=True)]
        is_single = shape.most_new == 1
        places = np.arange(len(questions))
        firsts = places if is_single else np.concatenate([[0], np.cumsum(counts)])
        here.places_T[:] = -1
        here.is_empty_Q[:] = 1
        here.excluded_QX[:] = -1
        if is_single:
            here.offsets_F[:] = np.arange(shape.num_requests + 2)
        else:
            here.offsets_F[1 : len(counts) + 1] = firsts[1:]
            here.offsets_F[len(counts) + 1 :] = firsts[-1]
        self._fill_events(here, questions, memories, starts, [int(first) for first in firsts])
        for place, (question, count) in enumerate(zip(questions, counts, strict=True)):
            if count:
                here.lengths_Q[place], here.is_empty_Q[place] = len(question.events), 0
                here.last_Q[place] = firsts[place] + count - 1
                here.pages_QP[place, : len(memories[place].pages)] = memories[place].pages
            here.times_QR[place], here.activity_Q6[place] = question.times_7[: here.times_QR.shape[1]], question.activity_6
            here.wanted_QS[place], here.wanted_weights_QS[place] = _unpacked(self._contexts.wanted(question.wanted_event_type))
        start = 0
        for place, question in enumerate(questions):
            rows, stop = question.past.statistics.item_rows_M, start + question.past.rows.num
            here.past_rows_M[start:stop], here.past_offsets_F[place + 1 :] = rows, stop
            here.past_features_M6[start:stop] = question.features_M6
            if shape.num_found and question.num_others:
                here.excluded_QX[place, : len(rows)] = rows
            start = stop

    def _fill_events(
        self,
        here: Inputs[Array],
        questions: Sequence[Question],
        memories: Sequence[PagedMemory],
        starts: Sequence[int],
        firsts: Sequence[int],
    ) -> None:
        """Write the new events into the buffer; those of question q begin at `firsts[q]`."""
        new = [event for question, start in zip(questions, starts, strict=True) for event in question.events[start:]]
        if not new:
            return
        page, width = self._model.pool.page, self._config.event_time_width
        owners = [q for q, start in enumerate(starts) if start < len(questions[q].events)]
        spans = [np.arange(firsts[q], firsts[q] + len(questions[q].events) - starts[q]) for q in owners]
        positions = [np.arange(starts[q], len(questions[q].events)) for q in owners]
        at = np.concatenate(spans)
        search_rows = itertools.count(len(self._model.vectors_NV) + (0 if self._added_AV is None else len(self._added_AV)))
        here.rows_T[at] = [next(search_rows) if event.item_id is None else self._rows[event.item_id] for event in new]
        here.positions_T[at] = np.concatenate(positions)
        pages = [np.array(memories[q].pages)[where // page] for q, where in zip(owners, positions, strict=True)]
        here.places_T[at] = np.concatenate(pages) * page + here.positions_T[at] % page
        here.slots_TS[at], here.weights_TS[at] = _unpacked(self._contexts.of(new))
        times_T6 = np.concatenate([new_times(questions[q].events, starts[q]) for q in owners])
        here.dense_TW[at] = np.concatenate([times_T6[:, :width], self._contexts.numbers(new)], 1)

    def _queries(self, questions: Sequence[Question], parts: Sequence[Floats]) -> list[UserQuery]:
        """The queries of a batch from the results that were copied back."""
        queries_QZ, past_M, *found = parts
        queries, start = list[UserQuery](), 0
        queries_QV = queries_QZ[:, : self._model.vectors_NV.shape[1]]
        for place, question in enumerate(questions):
            rows, stop = question.past.statistics.item_rows_M, start + question.past.rows.num
            others = self._others(queries_QV[place], place, question, found) if found and question.num_others else None
            query = UserQuery(queries_QV[place], rows, past_M[start:stop], others)
            queries.append(self._with_search(question, query))
            start = stop
        return queries

    def _with_search(self, question: Question, query: UserQuery) -> UserQuery:
        """The query with what a search adds to it that is the last event."""
        added_D = searched_vector(self._towers, question.events, question.now_ms)
        if added_D is None:
            return query
        query_V, items = query.query_V.copy(), ItemRows(self._model.vectors_NV, self._added_AV)
        query_V[: len(added_D)] += added_D
        past_MV = items.take(torch.from_numpy(query.past_rows_M).to(self._model.device))[:, : len(added_D)].cpu().numpy()
        return UserQuery(query_V, query.past_rows_M, np.asarray(query.past_scores_M + past_MV @ added_D, np.float32))

    def _others(self, query_V: Floats, place: int, question: Question, found: Sequence[Floats]) -> tuple[Ints, Floats]:
        """Rows and scores of the best other items of one question. What the search could not prove is searched for again."""
        rows_QK, scores_QK, unproven_Q = found
        rows, scores = rows_QK[place, : question.num_others], scores_QK[place, : question.num_others]
        if unproven_Q[place]:
            device, catalogue = self._model.device, self._model.catalogue
            assert catalogue is not None, "it was searched"
            excluded_1X = torch.from_numpy(question.past.statistics.item_rows_M[None]).int().to(device)
            again = top_k(torch.from_numpy(query_V[None]).to(device), catalogue, question.num_others, excluded_QX=excluded_1X)
            rows, scores = (part[0].cpu().numpy() for part in again)
        is_found = rows >= 0
        return rows[is_found].astype(np.int64), scores[is_found]


def _kept(slots_NS: Rows, weights_NS: Floats) -> Floats:
    """Slots and weights side by side, the slots as the bits of floats, so that one array keeps both."""
    return np.concatenate([np.ascontiguousarray(slots_NS, np.int32).view(np.float32), weights_NS], 1)


def _unpacked(kept: Floats) -> tuple[Rows, Floats]:
    """The slots and weights that `_kept` put together."""
    half = kept.shape[-1] // 2
    return np.ascontiguousarray(kept[..., :half]).view(np.int32), kept[..., half:]


def _memory_of(question: Question) -> PagedMemory:
    assert isinstance(question.memory, PagedMemory), "the memory is of this reader"
    return question.memory


def _power_of_two(number: int) -> int:
    """The smallest power of two that is no smaller."""
    return 1 << max(number - 1, 0).bit_length()
