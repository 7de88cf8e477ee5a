from typing import Any

import numpy as np
import pytest

from service.api.schemas import RecommendRequest
from service.api.scores import ScoreRequest
from service.histories.history import UserHistory
from service.ranking.score import Scores, score
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, Client, UnreachableHistory, recommend

Histories = dict[str, UserHistory]


def scored(release: LoadedRelease, history: UserHistory, item_ids: list[str]) -> Scores:
    return score(release, ScoreRequest(candidate_item_ids=item_ids), history, NOW_MS)


def test_items_come_in_the_order_in_which_they_would_be_recommended(release: LoadedRelease, histories: Histories) -> None:
    for history in [UserHistory(), *list(histories.values())[:8]]:
        ranking = recommend(release, RecommendRequest(num_results=400), history, NOW_MS)
        items = scored(release, history, sorted(release.item_ids)).items
        assert [i.item_id for i in items] == [i.item_id for i in ranking.items]
        assert np.exp([i.log_probability for i in items]).sum() == pytest.approx(1, abs=1e-6)
        apart = [i.log_probability - r.score for i, r in zip(items, ranking.items, strict=True)]
        np.testing.assert_allclose(apart, apart[0], atol=1e-4)  # all by the same constant


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
