"""Searches as events: the text of a query becomes a vector in the space of the items, which is read as an item's vector is.

The vector is the sum of two parts. The embedder reads the text like an item of which only the title is known. Its table is
narrow, because it runs on the whole catalogue; so the contextualizer adds a wide row for each word of the query. When a search is
the last event, its vector is also added to the query vector of the user: the half-life of that is an hour.

S: searches, D: vector width, B: histories, L: events of the longest, N: items
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.features import EncodedRows, FeatureSpec, FieldSpec, Floats, Ints, encode_rows
from twotower.data.schema import EVENT_TYPE, SEARCH, ItemColumns
from twotower.device import device_of_weights, on
from twotower.model.catalogue import tensors
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder

HALF_LIFE_MS = 3_600_000  # of the direct effect of a search that is the last event
Flags = npt.NDArray[np.bool_]
WORDS = FeatureSpec(fields=(FieldSpec(name="query", kind="text", max_tokens=16),))


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """Queries as the embedder reads them, and their words as rows of the contextualizer's table of words."""

    items: EncodedRows
    words: EncodedRows

    def __len__(self) -> int:
        return len(self.items)


def query_field(columns: ItemColumns) -> str | None:
    """The feature of items that reads queries: the title if it is text, else the first text; None if items have no text."""
    texts = [name for name, kind in columns.features.items() if kind == "text"]
    return columns.title if columns.title in texts else next(iter(texts), None)


def encode_queries(texts: Sequence[str], model: ModelConfig) -> EncodedQueries:
    """Queries for both towers. For the embedder the words stand in the field `query_field`; the id and all else is missing."""
    if not texts:
        return EncodedQueries(EncodedRows.none(model.item_spec), EncodedRows.none(WORDS))
    assert model.query_field is not None, "the model reads searches"
    column = pa.array(texts, pa.string())
    rows = encode_rows({model.query_field: column}, model.item_spec, model.table_rows)
    rows.weights_NS[:, : model.item_spec.num_id_hashes] = 0.0  # as training hides ids, see `training.losses.objective`
    return EncodedQueries(rows, encode_rows({"query": column}, WORDS, model.query_table_rows))


def search_context(model: ModelConfig) -> EncodedRows:
    """The context of a search of which only the query is known, one row."""
    return encode_rows({EVENT_TYPE: pa.array([SEARCH])}, model.context_spec, model.context_table_rows)


def query_vectors(contextualizer: Contextualizer, embedded_SD: Tensor, words: EncodedRows) -> Tensor:
    """Vectors [S, D] of queries, from what the embedder made of them, on its device."""
    slots_SW, weights_SW, _ = on(embedded_SD.device, tensors(words))
    return embedded_SD + contextualizer.pool_words(slots_SW, weights_SW)


@torch.inference_mode()
def embed_queries(embedder: Embedder, contextualizer: Contextualizer, texts: Sequence[str], model: ModelConfig) -> Tensor:
    """Vectors [S, D] of queries, without gradients, on the device of the embedder."""
    if not texts:
        return torch.zeros(0, model.width)
    queries = encode_queries(texts, model)
    embedded_SD = embedder(*on(device_of_weights(embedder), tensors(queries.items)))
    return query_vectors(contextualizer, embedded_SD, queries.words)


def search_weight(is_search_Q: Flags, now_ms_Q: Ints, last_ms_Q: Ints) -> Floats:
    """How much the last event's query counts directly, [Q]: 1 right after a search, half an hour later, 0 after other events."""
    ages_Q = np.maximum(now_ms_Q - last_ms_Q, 0) / HALF_LIFE_MS
    return np.where(is_search_Q, 0.5**ages_Q, 0.0).astype(np.float32)


def event_vectors(item_vectors_ND: Tensor, search_vectors_SD: Tensor, rows_BL: Tensor) -> Tensor:
    """The vectors [B, L, D] of events: a row of the catalogue, or -1 - s for search s."""
    if not len(search_vectors_SD):
        return item_vectors_ND[rows_BL]
    searched_BLD = search_vectors_SD[(-1 - rows_BL).clamp(min=0)]
    return torch.where((rows_BL < 0)[..., None], searched_BLD, item_vectors_ND[rows_BL.clamp(min=0)])
