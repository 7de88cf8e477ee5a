"""Items like another, by their vectors and for a user."""

from typing import Any

import numpy as np
import pytest

from service.api.errors import ApiError
from service.api.schemas import Recommended, SimilarRequest
from service.histories.history import UserHistory
from service.ranking.similar import SIMILAR_POOL, find_similar
from service.release.loaded import LoadedRelease
from tests.service.ranking.test_rules import all_scores, ask, ids, inline

NOW_MS = 1_746_057_600_000
Histories = dict[str, UserHistory]


def alike(release: LoadedRelease, asked: SimilarRequest) -> tuple[list[Recommended], list[str]]:
    return find_similar(release, asked, UserHistory(), NOW_MS)


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
    asked = SimilarRequest(item_id=item_id, user_id="ann")
    items, _ = find_similar(release, asked, history, NOW_MS)
    pool = {i.item_id for i in plain}
    expected = [i for i in ids(ask(release, history, num_results=400)) if i in pool]
    assert [i.item_id for i in items] == expected[:10]
    scores_N = all_scores(release, history)
    np.testing.assert_allclose([i.score for i in items], [scores_N[release.rows[i.item_id]] for i in items], atol=1e-4)
    inline_too = SimilarRequest(item_id=item_id, events=[inline(release.item_ids[3])])
    assert find_similar(release, inline_too, UserHistory(), NOW_MS)[0] != plain[:10]
