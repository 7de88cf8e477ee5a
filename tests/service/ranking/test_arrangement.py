"""Promotions and diversity on real answers."""

from typing import Any

import numpy as np
import pytest

from service.api.errors import ApiError
from service.api.schemas import Promotion, RecommendRequest
from service.histories.history import UserHistory
from service.ranking.arrangement import num_wanted, unit_vectors
from service.ranking.pages import Page
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, Client, recommend

Histories = dict[str, UserHistory]


def ask(release: LoadedRelease, history: UserHistory, **fields: Any) -> Ranking:
    return recommend(release, RecommendRequest(**fields), history, NOW_MS)


def ids(ranking: Ranking) -> list[str]:
    return [item.item_id for item in ranking.items]


def promotion(**fields: Any) -> Promotion:
    return Promotion(**{"name": "ours", "filter": "department == 'aisle 3'"} | fields)


def test_a_position_gets_the_best_scored_match_with_the_score_it_has(release: LoadedRelease, histories: Histories) -> None:
    for history in list(histories.values())[:8]:
        plain = ask(release, history, num_results=400)
        best = ask(release, history, num_results=1, filter="department == 'aisle 3'").items[0]
        answer = ask(release, history, promotions=[promotion(position=2)])
        assert (answer.items[1].item_id, answer.items[1].score) == (best.item_id, best.score)
        assert (answer.items[1].source, answer.items[1].promotion) == ("promotion", "ours")
        others = [i for i in ids(plain) if i != best.item_id]
        assert ids(answer) == [others[0], best.item_id, *others[1:9]]
        assert {i.source for i in answer.items[2:]} == {"model"}


def test_a_percentage_is_reached_and_what_is_excluded_is_not_promoted(release: LoadedRelease, histories: Histories) -> None:
    matching = {release.item_ids[row] for row in release.filters.mask("department == 'aisle 3'").nonzero()[0]}
    for history in list(histories.values())[:8]:
        answer = ask(release, history, promotions=[promotion(percent=50)])
        assert len(matching & set(ids(answer))) >= 5
        shown = [i.item_id for i in answer.items if i.source == "promotion"]
        without = ask(release, history, promotions=[promotion(percent=50)], exclude_item_ids=shown, exclude_seen=True)
        assert not set(shown) & set(ids(without))
        assert not set(history.items) & set(ids(without))
        assert len(without.items) == 10


def test_fewer_matches_than_promised_are_what_there_is_and_the_answer_says_so(release: LoadedRelease) -> None:
    one = promotion(filter=f"item_id == '{release.item_ids[7]}'", percent=50)
    answer = ask(release, UserHistory(), promotions=[one])
    assert (len(answer.items), answer.degraded) == (10, ["promotion_short"])
    assert [i.item_id for i in answer.items if i.promotion] == [release.item_ids[7]]
    assert ask(release, UserHistory(), promotions=[promotion(filter="price < 0", position=1)]).degraded == ["promotion_short"]


def test_a_position_behind_the_last_allowed_item_keeps_nothing_back(release: LoadedRelease) -> None:
    some = release.item_ids[:5]
    everyone = promotion(filter="item_id != ''", position=6)
    answer = ask(release, UserHistory(), candidate_item_ids=some, promotions=[everyone])
    assert ids(answer) == ids(ask(release, UserHistory(), candidate_item_ids=some))


@pytest.mark.parametrize("validate_only", [False, True])
def test_a_filter_of_a_promotion_that_means_nothing_is_refused_by_its_place(release: LoadedRelease, validate_only: bool) -> None:
    promotions = [promotion(position=1), promotion(filter="titel == 'x'", position=2)]
    with pytest.raises(ApiError, match="department") as refused:
        ask(release, UserHistory(), promotions=promotions, validate_only=validate_only)
    assert (refused.value.status, refused.value.field) == (422, "promotions[1].filter")


def test_more_diversity_makes_the_items_less_alike_and_the_first_stays(release: LoadedRelease, histories: Histories) -> None:
    for history in list(histories.values())[:6]:
        answers = [ask(release, history, num_results=20, diversity=d) for d in (0.0, 0.5, 1.0)]
        assert len({ids(answer)[0] for answer in answers}) == 1
        assert all(len(set(ids(answer))) == 20 for answer in answers)
        alike = []
        for answer in answers:
            vectors = unit_vectors(release, np.array([release.rows[i] for i in ids(answer)]))
            alike.append(np.triu(vectors @ vectors.T, 1).max())
        assert alike[0] > alike[2]
        assert alike[0] >= alike[1] - 1e-6


def test_an_answer_that_is_varied_has_the_scores_of_its_items(release: LoadedRelease, histories: Histories) -> None:
    history = next(iter(histories.values()))
    scores = {i.item_id: i.score for i in ask(release, history, num_results=400).items}
    assert all(scores[i.item_id] == i.score for i in ask(release, history, diversity=0.7).items)


def test_a_page_wants_what_was_given_what_is_asked_and_what_may_be_kept_back() -> None:
    assert num_wanted(RecommendRequest(), Page((), 0)) == 11
    assert num_wanted(RecommendRequest(promotions=[promotion(position=1)]), Page((1, 2, 3), 0)) == 15
    assert num_wanted(RecommendRequest(num_results=500), Page((), 0)) == 500


def test_promotions_over_http(client: Client) -> None:
    promoted = {"name": "ours", "filter": "department == 'aisle 3'", "position": 1}
    first = client.recommend(promotions=[promoted], include_metadata=["department"])["items"][0]
    assert (first["source"], first["promotion"], first["metadata"]) == ("promotion", "ours", {"department": "aisle 3"})
    twice = client.post("/v1/recommend", {"promotions": [promoted, promoted]})
    assert (twice.status_code, twice.json()["error"]["field"]) == (422, "promotions[1].position")
    much = client.post("/v1/recommend", {"promotions": [{"name": "a", "filter": "sold", "percent": 70}] * 2})
    assert (much.status_code, much.json()["error"]["field"]) == (422, "promotions")
