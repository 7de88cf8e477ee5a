"""Why an item is recommended: what its probability would be had the user never met one of the last items.

No gradients and no attention weights: each item is left out of the history and of the statistics, and the model is asked again.

L: events, M: past items, R: rows to explain, E: items left out
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from service.api.schemas import Reason
from service.histories.history import PastItem
from service.ranking.probability import Float64s, log_probabilities
from service.release.loaded import LoadedRelease
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import ItemStatistics
from twotower.model.scoring import Queries, Request

MAX_LEFT_OUT = 16  # the last distinct items of the window; each costs the model a history
MAX_REASONS = 3  # beside the item itself
LEAST_EFFECT = 0.01  # of what is worth a word: it makes the item 1 % more likely
TITLE = "title"  # the column that names items, where there is one

Ask = Callable[[Sequence[Request]], Queries]


def explain(
    release: LoadedRelease, request: Request, past: Mapping[int, PastItem], rows: Sequence[int], ask: Ask
) -> list[list[Reason]]:
    """Reasons for each row, the strongest first; a past item's first reason is itself. None for an empty history."""
    if not rows or not past:
        return [[] for _ in rows]
    recent = [row for row in last_items(request) if row in past]
    order = np.unique(np.array(rows, np.int64))
    queries = ask([request, *(without(request, row) for row in recent)])
    log_p_QR = log_probabilities(release, queries, order)
    effects_ER = log_p_QR[0] - log_p_QR[1:]
    return [reasons(release, row, past, recent, effects_ER[:, np.searchsorted(order, row)], request.now_ms) for row in rows]


def last_items(request: Request) -> list[int]:
    """The distinct items of the last events, the latest first."""
    return list(dict.fromkeys(request.history.item_rows_L[::-1].tolist()))[:MAX_LEFT_OUT]


def without(request: Request, row: int) -> Request:
    """The request of a user who never met this item."""
    history, statistics = request.history, request.statistics
    kept_L, kept_M = history.item_rows_L != row, statistics.item_rows_M != row
    return replace(
        request,
        history=replace(
            history,
            item_rows_L=history.item_rows_L[kept_L],
            times_ms_L=history.times_ms_L[kept_L],
            context=history.context.take(kept_L),
        ),
        statistics=ItemStatistics(
            statistics.item_rows_M[kept_M],
            statistics.count_M[kept_M],
            statistics.first_ms_M[kept_M],
            statistics.last_ms_M[kept_M],
            statistics.decayed_M3[kept_M],
        ),
    )


def reasons(
    release: LoadedRelease, row: int, past: Mapping[int, PastItem], recent: Sequence[int], effects_E: Float64s, now_ms: int
) -> list[Reason]:
    """Why one row: what the user did with it, then the recent items that make it likelier."""
    effects = dict(zip(recent, effects_E.tolist(), strict=True))
    itself = []
    if row in past:
        itself = [reason(release, row, past[row], habit(past[row], now_ms), effects.get(row))]
    others = sorted((-effect, other) for other, effect in effects.items() if other != row and effect >= LEAST_EFFECT)
    return itself + [
        reason(release, other, past[other], f"because of {title(release, other)} ({day(past[other].last_ms)})", -negative)
        for negative, other in others[:MAX_REASONS]
    ]


def reason(release: LoadedRelease, row: int, item: PastItem, text: str, effect: float | None) -> Reason:
    """A reason as the client sees it."""
    return Reason(text=text, item_id=release.item_ids[row], last=item.last_ms, effect=effect)


def habit(item: PastItem, now_ms: int) -> str:
    """What the user did with an item, such as "purchase, view: 5 times, last 12 days ago"."""
    times = "once" if item.count == 1 else f"{item.count} times, last"
    days = max(now_ms - item.last_ms, 0) // DAY_MS
    ago = "today" if days == 0 else "a day ago" if days == 1 else f"{days} days ago"
    return f"{', '.join(sorted(item.event_types))}: {times} {ago}"


def title(release: LoadedRelease, row: int) -> str:
    """What a person calls the item."""
    named = release.items.column(TITLE)[row].as_py() if TITLE in release.items.column_names else None
    return str(named or release.item_ids[row])


def day(time_ms: int) -> str:
    """The date in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
