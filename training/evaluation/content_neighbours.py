"""The baseline for cold items: rank items by content similarity to the user's last items. Nothing in it is learned.

Q: queries, N: items, S: hash slots, F: dense features, R: rows of the hashed space
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.nn import functional

from training.data.event_log import EventLog
from training.evaluation.rankers import Query
from twotower.data.features import EncodedRows, FeatureSpec, Floats
from twotower.data.item_statistics import ItemStatistics
from twotower.model.catalogue import encode_items

RECENT_EVENTS = 50  # the user's profile is their mean
HASHED_ROWS = 2**16  # enough that few tokens collide


@dataclass(frozen=True)
class ContentNeighbours:
    """Dot product of an item with the mean of the user's last items: cosine of hashed tokens, plus cosine of dense features."""

    log: EventLog
    slots_NS: Tensor
    weights_NS: Tensor  # signed, times the inverse document frequency; rows have length one
    dense_NF: Floats  # centred; rows have length one
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:  # noqa: ARG002
        """Similarity of every item to each user's profile. All items tie for a user without a history."""
        profile_RQ = torch.zeros(HASHED_ROWS, len(queries))
        dense_QF = np.zeros((len(queries), self.dense_NF.shape[1]), np.float32)
        for q, query in enumerate(queries):
            start = self.log.span(query.user)[0]
            stop = start + query.num_known
            recent = self.log.item_rows_E[max(start, stop - RECENT_EVENTS) : stop].astype(np.int64)
            if len(recent):
                weights = self.weights_NS[recent].flatten() / len(recent)
                profile_RQ[:, q].index_add_(0, self.slots_NS[recent].flatten(), weights)
                dense_QF[q] = self.dense_NF[recent].mean(0)
        tokens_NQ = functional.embedding_bag(self.slots_NS, profile_RQ, mode="sum", per_sample_weights=self.weights_NS)
        torch.add(tokens_NQ.T, torch.from_numpy(dense_QF @ self.dense_NF.T), out=out_QN)


def content_neighbours(log: EventLog, tables: Iterable[pa.Table], spec: FeatureSpec) -> ContentNeighbours:
    """The baseline for a catalogue as `stream_items` yields it. `spec` is that of a model; its id fields are not used."""
    content = replace(spec, fields=tuple(f for f in spec.fields if f.kind != "id"), num_hashes=1)
    rows = EncodedRows.concatenate([encode_items(table, content, HASHED_ROWS) for table in tables])
    seen_in_R = np.bincount(rows.slots_NS[rows.weights_NS != 0], minlength=HASHED_ROWS)
    rarity_R = np.log(len(rows) / np.maximum(seen_in_R, 1)).astype(np.float32)
    weights_NS = unit_rows(np.sign(rows.weights_NS) * rarity_R[rows.slots_NS])
    dense_NF = unit_rows(rows.dense_NF - rows.dense_NF.mean(0))
    return ContentNeighbours(log, torch.from_numpy(rows.slots_NS), torch.from_numpy(weights_NS), dense_NF)


def unit_rows(values: Floats) -> Floats:
    """Each row divided by its length; rows of zeros stay as they are."""
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)
