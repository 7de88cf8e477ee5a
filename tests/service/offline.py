"""The model asked as the offline evaluation asks it: whole histories at once, with no state of any user.

N: items
"""

import numpy as np

from service.histories.history import PastItem
from service.model.event_contexts import event_context
from service.ranking.user_request import ModelInput
from service.release.loaded import LoadedRelease
from twotower.data.features import Floats
from twotower.data.item_statistics import ItemStatistics
from twotower.data.window import History
from twotower.model.scoring import Request, answer


def offline_scores(release: LoadedRelease, model_input: ModelInput) -> Floats:
    """score(u, j) of every item of a release without item changes, [N]."""
    events, past = model_input.known_events, model_input.past_items(release)
    rows = np.array([release.rows[e.item_id] for e in events if e.item_id is not None], np.int64)
    history = History(rows, np.array([e.time_ms for e in events], np.int64), event_context(release.towers, events))
    request = Request(history, _statistics(past), model_input.now_ms, model_input.target_event_type)
    queries = answer(release.towers.contextualizer, release.towers.config.model, release.vectors_NV, [request])
    return np.asarray(queries.dense_scores(release.vectors_NV)[0].numpy())


def _statistics(past: dict[int, PastItem]) -> ItemStatistics:
    if not past:
        return ItemStatistics.empty()
    values = list(past.values())
    return ItemStatistics(
        np.array(list(past), np.int64),
        np.array([item.count for item in values], np.int64),
        np.array([item.first_ms for item in values], np.int64),
        np.array([item.last_ms for item in values], np.int64),
        np.array([item.decayed for item in values], np.float64),
    )
