"""Log-probabilities of items, from scratch, from a kept state and as the offline evaluation computes them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.serving_rivals.offline import offline_request, offline_scores
from service.api.schemas import RecommendRequest
from service.api.scores import ScoreRequest
from service.histories.history import UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.score import Scores, score_many
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from tests.service.conftest import NOW_MS, Client, UnreachableHistory, recommend

Histories = dict[str, UserHistory]


def scored(release: LoadedRelease, history: UserHistory, item_ids: list[str]) -> Scores:
    (scores,) = score_many(release, [UserRequest(ScoreRequest(candidate_item_ids=item_ids), history, NOW_MS)], UserCache(0))
    return scores


def test_items_come_in_the_order_in_which_they_would_be_recommended(release: LoadedRelease, histories: Histories) -> None:
    for history in [UserHistory(), *list(histories.values())[:8]]:
        ranking = recommend(release, RecommendRequest(num_results=400), history, NOW_MS)
        items = scored(release, history, sorted(release.item_ids)).items
        assert [i.item_id for i in items] == [i.item_id for i in ranking.items]
        assert np.exp([i.log_probability for i in items]).sum() == pytest.approx(1, abs=1e-6)
        apart = [i.log_probability - r.score for i, r in zip(items, ranking.items, strict=True)]
        np.testing.assert_allclose(apart, apart[0], atol=1e-4)  # all by the same constant


def test_scores_from_a_kept_state_are_those_from_scratch_and_those_of_the_offline_evaluation(
    release: LoadedRelease, histories: Histories
) -> None:
    """Each user comes twice; between the two requests the history grows by three events."""
    own_release, cache = replace(release), UserCache(1 << 28)
    some = [("nobody", UserHistory()), *list(histories.items())[:8]]
    for num_left_out in (3, 0):
        batch = [
            UserRequest(
                ScoreRequest(user_id=user, candidate_item_ids=release.item_ids, target_event_type="purchase"),
                UserHistory().extended(history.events[: len(history.events) - num_left_out]),
                NOW_MS,
            )
            for user, history in some
        ]
        for user_request, kept in zip(batch, score_many(own_release, batch, cache), strict=True):
            (fresh,) = score_many(replace(release), [user_request], UserCache(0))
            assert kept.events_used == fresh.events_used
            kept_by_id = {item.item_id: item.log_probability for item in kept.items}
            fresh_by_id = {item.item_id: item.log_probability for item in fresh.items}
            assert kept_by_id == pytest.approx(fresh_by_id, rel=0, abs=1e-5)
            offline_N = offline_scores(release, offline_request(release, user_request.stored, NOW_MS, "purchase")).astype(
                np.float64
            )
            offline_N -= np.logaddexp.reduce(offline_N)
            np.testing.assert_allclose([kept_by_id[i] for i in release.item_ids], offline_N, rtol=0, atol=1e-4)
    assert (cache.counters.hits, cache.counters.misses) == (9, 9)


def test_scoring_and_recommending_use_the_same_kept_state(release: LoadedRelease, histories: Histories) -> None:
    own_release, cache = replace(release), UserCache(1 << 28)
    user, history = next(iter(histories.items()))
    recommend_many(own_release, [UserRequest(RecommendRequest(user_id=user), history, NOW_MS)], cache)
    scoring = UserRequest(ScoreRequest(user_id=user, candidate_item_ids=["item-1"]), history, NOW_MS)
    score_many(own_release, [scoring, scoring], cache)
    assert (cache.counters.hits, cache.counters.misses) == (2, 1)


def test_unknown_items_are_named_and_repeated_ones_scored_once(release: LoadedRelease) -> None:
    answer = scored(release, UserHistory(), ["gone", "item-1", "item-1", "gone"])
    assert ([i.item_id for i in answer.items], answer.missing_item_ids) == (["item-1"], ["gone"])
    nothing = scored(release, UserHistory(), [])
    assert (nothing.items, nothing.missing_item_ids) == ([], [])


def event(item: str, **fields: Any) -> dict[str, Any]:
    return {"item_id": item, "event_type": "purchase", "timestamp": NOW_MS - 5000} | fields


def test_scores_over_http_know_stored_and_inline_events(client: Client, release: LoadedRelease) -> None:
    client.post("/v1/events", {"events": [event("item-4", user_id="ann"), event("gone", user_id="ann")]})
    body = {"candidate_item_ids": ["item-4", "item-9", "lost"], "timestamp": NOW_MS, "target_event_type": "purchase"}
    cold = client.post("/v1/score", body).json()
    known = client.post("/v1/score", body | {"user_id": "ann"}).json()
    inline = client.post("/v1/score", body | {"events": [event("item-4"), event("gone")]}).json()
    assert set(known) == {
        "items",
        "release",
        "variant",
        "events_used",
        "events_ignored",
        "missing_item_ids",
        "history_seq",
        "degraded",
        "took_ms",
    }
    assert known["items"] == inline["items"] != cold["items"]
    assert (known["release"], known["events_used"], known["events_ignored"], known["history_seq"]) == (release.id, 1, 1, 2)
    assert known["missing_item_ids"] == ["gone", "lost"]


def test_scores_without_the_history_say_so(connect: Any) -> None:
    answer = connect(UnreachableHistory()).post("/v1/score", {"user_id": "ann", "candidate_item_ids": ["item-1"]}).json()
    assert (answer["degraded"], len(answer["items"])) == (["history_unavailable"], 1)


@pytest.mark.parametrize(
    ("body", "field"), [({}, "candidate_item_ids"), ({"candidate_item_ids": [""]}, None), ({"candidate_item_ids": [1]}, None)]
)
def test_what_cannot_be_scored_is_refused(client: Client, body: Any, field: str | None) -> None:
    refused = client.post("/v1/score", body)
    assert refused.status_code == 422
    assert refused.json()["error"]["field"].startswith(field or "candidate_item_ids")
