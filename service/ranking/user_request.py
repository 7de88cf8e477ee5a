"""Of whom a request speaks, as the model is shown it.

L: events the model reads, M: past items, U: rows that a request names
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from service.api.schemas import AboutUser
from service.histories.history import PastItem, StoredEvent, UserHistory
from service.histories.intake import merge_inline
from service.model.event_contexts import event_context
from service.release.loaded import LoadedRelease
from twotower.data.item_statistics import ItemStatistics
from twotower.data.window import History
from twotower.model.scoring import Queries, Request, answer


@dataclass(frozen=True, slots=True)
class User:
    """Of whom a request speaks, in the release's rows."""

    request: Request
    past: dict[int, PastItem]
    item_ids: list[str]  # of the window, known or not
    events_used: int
    events_ignored: int

    def missing(self, release: LoadedRelease, named: Sequence[str]) -> list[str]:
        """The ids of the history, and those `named`, that the catalogue does not know, each once."""
        return [i for i in dict.fromkeys([*self.item_ids, *named]) if i not in release.rows]


def read_user(release: LoadedRelease, asked: AboutUser, stored: UserHistory, now_ms: int) -> User:
    """What the model is shown of the history that the request speaks of."""
    history = merge_inline(stored, asked)
    known = [e for e in history.window if e.item_id in release.rows]
    past = {release.rows[i]: past for i, past in history.items.items() if i in release.rows}
    request = Request(model_history(release, known), item_statistics_of(past), now_ms, asked.target_event_type)
    item_ids = [e.item_id for e in history.window if e.item_id]
    return User(request, past, item_ids, len(known), len(history.window) - len(known))


def ask_model(release: LoadedRelease, requests: Sequence[Request]) -> Queries:
    """The model's answers. Where vectors stand in two places it is shown those of the requests' own rows alone."""
    towers = release.towers
    if release.added is None:
        return answer(towers.contextualizer, towers.config.model, release.vectors_NV, requests)
    named = [r for q in requests for r in (q.history.item_rows_L, q.statistics.item_rows_M)]
    rows_U = np.unique(np.concatenate([np.zeros(1, np.int64), *named]))  # row 0 pads an empty history
    local = [
        replace(
            q,
            history=replace(q.history, item_rows_L=np.searchsorted(rows_U, q.history.item_rows_L)),
            statistics=replace(q.statistics, item_rows_M=np.searchsorted(rows_U, q.statistics.item_rows_M)),
        )
        for q in requests
    ]
    queries = answer(towers.contextualizer, towers.config.model, release.vectors(rows_U), local)
    return replace(queries, past_rows_M=torch.from_numpy(rows_U)[queries.past_rows_M])


def model_history(release: LoadedRelease, events: Sequence[StoredEvent]) -> History:
    """Events of known items as the contextualizer reads them."""
    rows = np.array([release.rows[e.item_id] for e in events if e.item_id is not None], np.int64)
    return History(rows, np.array([e.time_ms for e in events], np.int64), event_context(release.towers, events))


def item_statistics_of(past: dict[int, PastItem]) -> ItemStatistics:
    """Statistics of the whole history for the repeat score."""
    if not past:
        return ItemStatistics.empty()
    values = list(past.values())
    return ItemStatistics(
        np.array(list(past), np.int64),
        np.array([o.count for o in values], np.int64),
        np.array([o.first_ms for o in values], np.int64),
        np.array([o.last_ms for o in values], np.int64),
        np.array([o.decayed for o in values], np.float64),
    )
