"""Of whom a request speaks, as the model is shown it."""

from service.histories.history import PastItem
from service.ranking.user_request import item_statistics_of


def test_no_past_items_are_empty_statistics() -> None:
    assert len(item_statistics_of({})) == 0
    one = item_statistics_of({3: PastItem(2, 5, 9, (1.0, 1.5, 2.0), frozenset())})
    assert (one.item_rows_M.tolist(), one.count_M.tolist(), one.decayed_M3.tolist()) == ([3], [2], [[1.0, 1.5, 2.0]])
