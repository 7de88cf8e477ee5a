"""Explanations: how an item's probability would change if the user had never had one of the last past items.

Neither gradients nor attention weights are used. Each past item is left out of the history and of the statistics, and the model
computes the probability again. It reads the whole history once; for each item left out it continues from the event before it.

M: past items, R: rows to explain, E: items left out
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from service.api.schemas import Explanation
from service.histories.history import PastItem
from service.ranking.probability import Float64s, log_probabilities
from service.ranking.queries import new_state, queries_from
from service.ranking.user_request import MAX_LEFT_OUT, ModelInput
from service.release.loaded import LoadedRelease
from twotower.data.features import DAY_MS

MAX_REASONS = 3  # past items in a reason, not counting the recommended item itself
LEAST_EFFECT = 0.01  # a smaller effect is not worth a reason: 0.01 makes the item 1 % more likely
TITLE = "title"  # the column with the names of items, if there is one


def explain(release: LoadedRelease, model_input: ModelInput, rows: Sequence[int]) -> list[list[Explanation]]:
    """Reasons for each row, the strongest first. If the row is a past item, its first reason is that item itself.

    A user without past items gets no reasons.
    """
    past = model_input.past_items(release)
    if not rows or not past:
        return [[] for _ in rows]
    left_out = [row for row in last_rows(release, model_input) if row in past]
    order = np.unique(np.array(rows, np.int64))
    whole = new_state(release)
    queries = queries_from(release, [whole], [model_input])
    forks = [whole.without(release.item_ids[row], row) for row in left_out]
    queries += queries_from(release, forks, [without(model_input, release.item_ids[row]) for row in left_out])
    log_p_QR = log_probabilities(release, queries, order)
    effects_ER = log_p_QR[0] - log_p_QR[1:]
    columns = [int(np.searchsorted(order, row)) for row in rows]
    return [
        explanations(release, row, past, left_out, effects_ER[:, column], model_input.now_ms)
        for row, column in zip(rows, columns, strict=True)
    ]


def last_rows(release: LoadedRelease, model_input: ModelInput) -> list[int]:
    """Rows of the distinct items of the last events, the latest first, at most `MAX_LEFT_OUT`."""
    item_ids = [event.item_id for event in reversed(model_input.known_events) if event.item_id is not None]
    return [release.rows[item_id] for item_id in dict.fromkeys(item_ids)][:MAX_LEFT_OUT]


def without(model_input: ModelInput, item_id: str) -> ModelInput:
    """The input as if the user had never had this item."""
    history = model_input.history
    items = {other: item for other, item in history.items.items() if other != item_id}
    known = tuple(event for event in model_input.known_events if event.item_id != item_id)
    return replace(model_input, history=replace(history, items=items), known_events=known)


def explanations(
    release: LoadedRelease, row: int, past: Mapping[int, PastItem], left_out: Sequence[int], effects_E: Float64s, now_ms: int
) -> list[Explanation]:
    """The reasons for one row: what the user did with it, then the past items that make it more likely."""
    effects = dict(zip(left_out, effects_E.tolist(), strict=True))
    itself = []
    if row in past:
        itself = [explanation(release, row, past[row], habit(past[row], now_ms), effects.get(row))]
    others = sorted((-effect, other) for other, effect in effects.items() if other != row and effect >= LEAST_EFFECT)
    return itself + [
        explanation(release, other, past[other], f"because of {title(release, other)} ({day(past[other].last_ms)})", -negative)
        for negative, other in others[:MAX_REASONS]
    ]


def explanation(release: LoadedRelease, row: int, item: PastItem, text: str, effect: float | None) -> Explanation:
    """One reason of the answer, about the past item in `row`."""
    return Explanation(text=text, item_id=release.item_ids[row], last=item.last_ms, effect=effect)


def habit(item: PastItem, now_ms: int) -> str:
    """What the user did with an item, such as "purchase, view: 5 times, last 12 days ago"."""
    times = "once" if item.count == 1 else f"{item.count} times, last"
    days = max(now_ms - item.last_ms, 0) // DAY_MS
    ago = "today" if days == 0 else "a day ago" if days == 1 else f"{days} days ago"
    return f"{', '.join(sorted(item.event_types))}: {times} {ago}"


def title(release: LoadedRelease, row: int) -> str:
    """The name of the item for people: its title, or its id if there is none."""
    named = release.items.column(TITLE)[row].as_py() if TITLE in release.items.column_names else None
    return str(named or release.item_ids[row])


def day(time_ms: int) -> str:
    """The date in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
