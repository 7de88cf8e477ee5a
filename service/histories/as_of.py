"""A history as it was at a past moment, from what is stored now: for replays and back-tests, which must not see the future.

The events from the moment on are taken away: all of them are kept, unless the moment is older than every kept event. What lies
further back than the kept events is known by the statistics of items only, so not everything can be told exactly.
"""

from bisect import bisect_left
from dataclasses import dataclass

from service.histories.history import PastItem, StoredEvent, UserHistory
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import HALF_LIVES_DAYS
from twotower.data.window import anchor


@dataclass(frozen=True, slots=True)
class AsOf:
    """A history before a moment; `is_exact` is False if the store no longer holds all that was known then."""

    history: UserHistory
    is_exact: bool


def as_of(history: UserHistory, moment_ms: int) -> AsOf:
    """The history of the events strictly before a moment, as the offline evaluation asks: a basket does not know itself."""
    if not history.events or history.events[-1].time_ms < moment_ms:
        return AsOf(history, True)
    num_known = bisect_left(history.events, moment_ms, key=lambda event: event.time_ms)
    known, later = history.events[:num_known], history.events[num_known:]
    if history.num_events == len(history.events):
        return AsOf(UserHistory().extended(known), True)
    if not known:
        items = _surely_before(history.items, moment_ms)
        return AsOf(UserHistory((), sum(item.count for item in items.values()), items), False)
    items, is_exact = _without(history.items, known, later)
    then = UserHistory(known, history.num_events - len(later), items)
    return AsOf(then, is_exact and len(then.window) == then.num_events - anchor(then.num_events))


def _surely_before(items: dict[str, PastItem], moment_ms: int) -> dict[str, PastItem]:
    """Of each item what is known to lie before a moment from which on no event is kept: everything, or its first event."""
    before = {item_id: item for item_id, item in items.items() if item.first_ms < moment_ms}
    return {item_id: item if item.last_ms < moment_ms else _once(item) for item_id, item in before.items()}


def _once(item: PastItem) -> PastItem:
    return PastItem(1, item.first_ms, item.first_ms, (1.0, 1.0, 1.0), item.event_types)


def _without(
    items: dict[str, PastItem], known: tuple[StoredEvent, ...], later: tuple[StoredEvent, ...]
) -> tuple[dict[str, PastItem], bool]:
    """Statistics of items without the events `later`, and whether all of them are exact. `known` are the kept events before."""
    kept, then, removed = (UserHistory().extended(events).items for events in (known + later, known, later))
    found, is_exact = dict(items), True
    for item_id in removed.keys() & items.keys():
        item, mine = items[item_id], then.get(item_id)
        num_older = item.count - kept[item_id].count
        if num_older <= 0 and mine:
            found[item_id] = mine
        elif num_older <= 0:
            del found[item_id]
        elif num_older == 1 and mine is None:
            found[item_id] = _once(item)
        else:
            found[item_id] = _with_older(item, kept[item_id], mine, num_older, known[0].time_ms)
            is_exact = is_exact and mine is not None
        if found.get(item_id) not in (None, mine):
            is_exact = is_exact and len(item.event_types) == 1  # otherwise a type may be that of later events only
    return found, is_exact


def _with_older(item: PastItem, kept: PastItem, mine: PastItem | None, num_older: int, oldest_ms: int) -> PastItem:
    """Statistics of `mine` and `num_older` events before `oldest_ms`, the time of the oldest kept event.

    The decayed counts of the older events are those of all events minus those of the kept ones. Without kept events before the
    moment, the last of the older ones is taken to lie at `oldest_ms`, because no later moment is possible.
    """
    last_ms, decayed = (mine.last_ms, mine.decayed) if mine else (oldest_ms, (0.0, 0.0, 0.0))
    found = [
        _older_decayed(all_, kept_, num_older, h, (item.first_ms, oldest_ms, last_ms, item.last_ms)) + own
        for all_, kept_, own, h in zip(item.decayed, kept.decayed, decayed, HALF_LIVES_DAYS, strict=True)
    ]
    num_mine = mine.count if mine else 0
    return PastItem(num_older + num_mine, item.first_ms, last_ms, (found[0], found[1], found[2]), item.event_types)


def _older_decayed(
    all_events: float, kept_events: float, num_older: int, half_life_days: float, times_ms: tuple[int, int, int, int]
) -> float:
    """The decayed count of the older events at `last_ms`; `times_ms` are first, oldest kept, `last_ms`, and last of all.

    The difference loses precision over many half-lives. So it is held to what events between first and oldest kept can give.
    """
    first_ms, oldest_ms, last_ms, end_ms = times_ms

    def fade(days_ms: int) -> float:
        return float(0.5 ** (days_ms / DAY_MS / half_life_days))

    first = fade(last_ms - first_ms)
    least, most = num_older * first, first + (num_older - 1) * fade(last_ms - oldest_ms)
    grown = (all_events - kept_events) / max(fade(end_ms - last_ms), 1e-300)
    return min(max(grown, least), most)
