"""The model of both competitors: the same release and towers, FAISS' flat index, and histories of encoded events.

An event is encoded once, on arrival, not at every request. The index is searched for as many extra items as there are past
items. These are then scored exactly, so answers are as exact as ours.

N: items, V: vector width, E: events of one user, Q: requests, K: results
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss as faiss_module
import numpy as np
import pyarrow as pa
import torch

from twotower.artefacts.bundle import Towers, load_towers
from twotower.artefacts.parts import read_items, read_vectors
from twotower.artefacts.release import read_info, read_pointer, read_release_manifest, release_path
from twotower.data.features import EncodedRows, Ints, encode_rows
from twotower.data.item_statistics import item_statistics
from twotower.data.window import WINDOW, History
from twotower.model.catalogue import ID_FIELD
from twotower.model.scoring import Request, answer

faiss: Any = faiss_module


@dataclass(frozen=True, slots=True)
class Events:
    """Encoded events of one user, oldest first, without those of unknown items."""

    rows_E: Ints
    times_ms_E: Ints
    context: EncodedRows

    def followed_by(self, later: "Events") -> "Events":
        """These events followed by later ones."""
        return Events(
            np.concatenate([self.rows_E, later.rows_E]),
            np.concatenate([self.times_ms_E, later.times_ms_E]),
            EncodedRows.concatenate([self.context, later.context]),
        )


class Told(NamedTuple):
    """One event as a client sends it."""

    item_id: str
    event_type: str
    time_ms: int
    properties: Mapping[str, Any]


class Question(NamedTuple):
    """One request: the user's events, the time, and the number of results."""

    events: Events
    now_ms: int
    num_results: int


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A loaded release."""

    towers: Towers
    vectors_NV: torch.Tensor
    index: Any
    item_ids: list[str]
    rows: dict[str, int]

    @staticmethod
    def load(store: Path, num_threads: int) -> "PlainModel":
        """Load the current release of a store, and set the number of threads of torch and FAISS."""
        torch.set_num_threads(num_threads)
        faiss.omp_set_num_threads(num_threads)
        path = release_path(store, read_pointer(store).release)
        info = read_info(path)
        vectors_NV = np.array(read_vectors(path, info))
        index = faiss.IndexFlatIP(vectors_NV.shape[1])
        index.add(vectors_NV)
        item_ids = read_items(path, info).column(ID_FIELD).to_pylist()
        rows = {item_id: row for row, item_id in enumerate(item_ids)}
        return PlainModel(load_towers(path, read_release_manifest(path)), torch.from_numpy(vectors_NV), index, item_ids, rows)

    def encode(self, told: Sequence[Told]) -> Events:
        """Events as the model reads them."""
        known = [event for event in told if event.item_id in self.rows]
        columns = {"event_type": pa.array([event.event_type for event in known], pa.string())}
        for name, kind in self.towers.schema.events.features.items():
            values = [event.properties.get(name) for event in known]
            if kind == "numeric":
                columns[name] = pa.array(values, pa.float64())
            else:
                columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
        model = self.towers.config.model
        return Events(
            np.array([self.rows[event.item_id] for event in known], np.int64),
            np.array([event.time_ms for event in known], np.int64),
            encode_rows(columns, model.context_spec, model.context_table_rows),
        )

    def recommend(self, questions: Sequence[Question]) -> list[list[tuple[str, float]]]:
        """Ids and scores of the best items for each request, best first. The model reads the last 256 events."""
        requests = [_request(question) for question in questions]
        queries = answer(self.towers.contextualizer, self.towers.config.model, self.vectors_NV, requests)
        past_scores_M = queries.past_scores(self.vectors_NV).numpy()
        past_rows_M, owner_M = queries.past_rows_M.numpy(), queries.past_request_M.numpy()
        most = max(q.num_results for q in questions) + int(np.bincount(owner_M, minlength=len(questions)).max())
        scores_QK, rows_QK = self.index.search(queries.vectors_QV.numpy(), min(most, len(self.item_ids)))
        return [
            self._merged(rows_QK[q], scores_QK[q], past_rows_M[owner_M == q], past_scores_M[owner_M == q], question.num_results)
            for q, question in enumerate(questions)
        ]

    def _merged(self, rows: Any, scores: Any, past_rows: Any, past_scores: Any, k: int) -> list[tuple[str, float]]:
        others = np.isin(rows, past_rows, invert=True)
        rows, scores = np.concatenate([rows[others], past_rows]), np.concatenate([scores[others], past_scores])
        order = np.lexsort((rows, -scores))[:k]
        return [(self.item_ids[row], float(score)) for row, score in zip(rows[order], scores[order], strict=True)]


def _request(question: Question) -> Request:
    events, last = question.events, slice(-WINDOW, None)
    history = History(events.rows_E[last], events.times_ms_E[last], events.context.take(last))
    return Request(history, item_statistics(events.rows_E, events.times_ms_E), question.now_ms)
