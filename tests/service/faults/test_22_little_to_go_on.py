"""Unknown, empty, too much: an answer holds what there is, and never a made-up item."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.release.loaded import LoadedRelease
from tests.service.conftest import Client

EVENT = {"event_type": "view", "timestamp": 1_746_000_000_000}
ids = st.sampled_from([f"item-{n}" for n in range(8)] + [f"gone-{n}" for n in range(4)])
excluded_ids = st.lists(ids, max_size=6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seen=st.lists(ids, max_size=6),
    candidates=st.none() | st.lists(ids, max_size=12),
    excluded=excluded_ids,
    exclude_seen=st.booleans(),
    num_results=st.integers(1, 500),
)
def test_an_answer_is_the_allowed_items_and_no_others(
    shared_client: Client,
    release: LoadedRelease,
    seen: list[str],
    candidates: list[str] | None,
    excluded: list[str],
    exclude_seen: bool,
    num_results: int,
) -> None:
    body: dict[str, Any] = {"events": [EVENT | {"item_id": i} for i in seen], "exclude_item_ids": excluded}
    body |= {"exclude_seen": exclude_seen, "num_results": num_results}
    answer = shared_client.recommend(**body, **({} if candidates is None else {"candidate_item_ids": candidates}))
    given_ids = [i["item_id"] for i in answer["items"]]
    allowed = set(release.item_ids if candidates is None else candidates) & set(release.rows)
    allowed -= set(excluded) | (set(seen) if exclude_seen else set())
    assert set(given_ids) <= allowed
    assert len(given_ids) == len(set(given_ids)) == min(num_results, len(allowed))
    scores = [i["score"] for i in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["events_used"] == sum(i in release.rows for i in seen)
    assert answer["events_ignored"] == sum(i not in release.rows for i in seen)
    unknown = {i for i in [*seen, *(candidates or ())] if i not in release.rows}
    assert set(answer["missing_item_ids"]) == unknown


@pytest.mark.parametrize("num_results", [-1, 0, 501, 10**6])
def test_a_number_of_results_that_cannot_be_is_refused(client: Client, num_results: int) -> None:
    response = client.post("/v1/recommend", {"num_results": num_results})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "num_results")


def test_more_than_the_catalogue_is_the_whole_catalogue(client: Client, release: LoadedRelease) -> None:
    answer = client.recommend(num_results=500)
    assert {i["item_id"] for i in answer["items"]} == set(release.item_ids)


def test_who_has_no_history_and_who_has_only_unknown_items_get_the_same_answer(client: Client) -> None:
    moment = {"timestamp": 1_746_057_600_000}
    cold = client.recommend(**moment, user_id="nobody")
    lost = client.recommend(**moment, events=[EVENT | {"item_id": "gone"}])
    assert [i["item_id"] for i in cold["items"]] == [i["item_id"] for i in lost["items"]]
    assert (lost["events_used"], lost["missing_item_ids"]) == (0, ["gone"])


def test_where_a_filter_leaves_nothing_the_answer_is_empty_and_says_so(client: Client) -> None:
    answer = client.recommend(filter="price < 0")
    assert (answer["items"], answer["degraded"]) == ([], ["filter_matches_nothing"])
