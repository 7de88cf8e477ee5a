"""The vectors of the queries of searches, for readers. Nothing is cached: a query is read once per user, and is personal.

S: searches, D: item vector width
"""

from collections.abc import Iterable, Sequence

import numpy as np

from service.histories.history import StoredEvent
from twotower.artefacts.bundle import Towers
from twotower.data.features import Floats
from twotower.model.searches import embed_queries, search_weight


def query_vectors(towers: Towers, events: Iterable[StoredEvent]) -> Floats:
    """The vectors [S, D] of the searches among events, in order."""
    queries = [event.query for event in events if event.query is not None]
    vectors_SD: Floats = embed_queries(towers.embedder, towers.contextualizer, queries, towers.config.model).numpy()
    return vectors_SD


def searched_vector(towers: Towers, events: Sequence[StoredEvent], now_ms: int) -> Floats | None:
    """What a search that is the last event adds to the query vector, [D]; None if the last event is none."""
    scale_D = towers.contextualizer.search_scale
    if not events or events[-1].query is None or scale_D is None:
        return None
    weight_1 = search_weight(np.array([True]), np.array([now_ms]), np.array([events[-1].time_ms]))
    added_D: Floats = query_vectors(towers, events[-1:])[0] * weight_1 * scale_D.detach().numpy()
    return added_D
