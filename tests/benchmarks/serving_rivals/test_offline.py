from pathlib import Path

import numpy as np

from benchmarks.serving_rivals.offline import item_statistics_of, offline_request, offline_scores
from service.histories.history import PastItem, StoredEvent, UserHistory
from service.release.loading import load_release

NOW_MS = 1_746_057_600_000


def test_no_past_items_are_empty_statistics() -> None:
    assert len(item_statistics_of({})) == 0
    one = item_statistics_of({3: PastItem(2, 5, 9, (1.0, 1.5, 2.0), frozenset())})
    assert (one.item_rows_M.tolist(), one.count_M.tolist(), one.decayed_M3.tolist()) == ([3], [2], [[1.0, 1.5, 2.0]])


def test_what_the_release_does_not_have_changes_no_score(tiny_store: Path) -> None:
    release = load_release(tiny_store)
    known, unknown = (
        StoredEvent(user_id="ann", event_type="view", time_ms=NOW_MS - age, item_id=item_id)
        for age, item_id in ((9, release.item_ids[3]), (1, "sold nowhere"))
    )
    with_both, with_one = UserHistory().extended([known, unknown]), UserHistory().extended([known])
    request = offline_request(release, with_both, NOW_MS)
    assert request.statistics.item_rows_M.tolist() == [3]
    scores_N = offline_scores(release, request)
    np.testing.assert_array_equal(scores_N, offline_scores(release, offline_request(release, with_one, NOW_MS)))
    assert scores_N[3] != offline_scores(release, offline_request(release, UserHistory(), NOW_MS))[3]
