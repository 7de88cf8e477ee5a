"""Items like another, by their vectors and for a user."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.api.errors import ApiError
from service.api.schemas import Recommended, SimilarRequest
from service.histories.history import UserHistory
from service.ranking.similar import SIMILAR_POOL, find_similar, similar_many
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from tests.service.conftest import NOW_MS
from tests.service.ranking.test_rules import all_scores, ask, ids, inline

Histories = dict[str, UserHistory]
NO_HISTORY = UserHistory()


def alike(
    release: LoadedRelease, request: SimilarRequest, history: UserHistory = NO_HISTORY
) -> tuple[list[Recommended], list[str]]:
    found = find_similar(release, UserRequest(request, history, NOW_MS), UserCache(0))
    return found.items, found.degraded


def raw_item(release: LoadedRelease, row: int) -> dict[str, Any]:
    item = release.items.slice(row, 1).to_pylist()[0]
    return {n: v.isoformat() if n == "released" and v else v for n, v in item.items()}


def test_raw_features_of_an_indexed_item_find_that_item_first(release: LoadedRelease) -> None:
    for row in range(20):
        items, _ = alike(release, SimilarRequest(item=raw_item(release, row)))
        assert items[0].item_id == release.item_ids[row]
        assert items[0].score == pytest.approx(1.0, abs=1e-5)


def test_an_item_is_not_similar_to_itself_and_rules_apply(release: LoadedRelease) -> None:
    item_id = release.item_ids[0]
    items, _ = alike(release, SimilarRequest(item_id=item_id, num_results=500))
    assert {i.item_id for i in items} == set(release.item_ids) - {item_id}
    nearest = items[0].item_id
    items, notes = alike(release, SimilarRequest(item_id=item_id, exclude_item_ids=[nearest], filter="price < 0"))
    assert (items, notes) == ([], ["filter_matches_nothing"])


def test_an_unknown_item_is_not_found(release: LoadedRelease) -> None:
    with pytest.raises(ApiError, match="no item 'gone'") as refused:
        alike(release, SimilarRequest(item_id="gone"))
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("titel", "x"),
        ("price", "cheap"),
        ("price", ["x"]),
        ("released", "soon"),
        ("image", "x"),
        ("image", [1.0, "x"]),
        ("tags", 3),
    ],
)
def test_raw_features_of_the_wrong_type_are_refused_by_name(release: LoadedRelease, name: str, value: Any) -> None:
    with pytest.raises(ApiError) as refused:
        alike(release, SimilarRequest(item={name: value}))
    assert (refused.value.status, refused.value.field) == (422, f"item.{name}")


def test_an_item_of_which_nothing_is_known_has_similar_items_too(release: LoadedRelease) -> None:
    items, _ = alike(release, SimilarRequest(item={}))
    assert len(items) == 10


def test_with_a_user_the_most_similar_items_are_ranked_for_that_user(release: LoadedRelease, histories: Histories) -> None:
    item_id, history = release.item_ids[0], next(h for h in histories.values() if len(h.items) > 5)
    plain, _ = alike(release, SimilarRequest(item_id=item_id, num_results=SIMILAR_POOL))
    items, _ = alike(release, SimilarRequest(item_id=item_id, user_id="ann"), history)
    pool = {i.item_id for i in plain}
    expected = [i for i in ids(ask(release, history, num_results=400)) if i in pool]
    assert [i.item_id for i in items] == expected[:10]
    scores_N = all_scores(release, history)
    np.testing.assert_allclose([i.score for i in items], [scores_N[release.rows[i.item_id]] for i in items], atol=1e-4)
    inline_too = SimilarRequest(item_id=item_id, events=[inline(release.item_ids[3])])
    assert alike(release, inline_too)[0] != plain[:10]


def test_for_a_user_whose_state_is_kept_the_items_and_scores_are_those_from_scratch(
    release: LoadedRelease, histories: Histories
) -> None:
    """Each user comes twice; between the two requests the history grows by three events."""
    own_release, cache = replace(release), UserCache(1 << 28)
    for user, history in list(histories.items())[:6]:
        for num_left_out in (3, 0):
            known = UserHistory().extended(history.events[: len(history.events) - num_left_out])
            request = SimilarRequest(item_id=release.item_ids[7], user_id=user, num_results=30)
            kept = find_similar(own_release, UserRequest(request, known, NOW_MS), cache)
            fresh, _ = alike(replace(release), request, known)
            assert [i.item_id for i in kept.items] == [i.item_id for i in fresh]
            np.testing.assert_allclose([i.score for i in kept.items], [i.score for i in fresh], rtol=0, atol=1e-5)
            scores_N = all_scores(release, known)
            expected = [scores_N[release.rows[i.item_id]] for i in kept.items]
            np.testing.assert_allclose([i.score for i in kept.items], expected, rtol=0, atol=1e-4)
    assert (cache.counters.hits, cache.counters.misses) == (6, 6)


def test_a_request_without_similar_items_fails_alone(release: LoadedRelease) -> None:
    requests = [SimilarRequest(item_id=item_id) for item_id in ("gone", release.item_ids[0])]
    refused, found = similar_many(release, [UserRequest(r, NO_HISTORY, NOW_MS) for r in requests], UserCache(0))
    assert isinstance(refused, ApiError)
    assert not isinstance(found, Exception)
    assert (refused.code, len(found.items)) == ("not_found", 10)
