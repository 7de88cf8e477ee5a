"""A softmax over a small catalogue, against one computed from the scores of every item.

N: items, Q: queries, R: rows
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.api.schemas import RecommendRequest
from service.histories.history import UserHistory
from service.model.reader import UserQuery
from service.ranking import probability
from service.ranking.probability import Float64s, log_normalisers, log_probabilities, place_past_items
from service.ranking.queries import new_state, queries_from
from service.ranking.user_request import UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.settings import Settings
from tests.service.conftest import NOW_MS, Client, MemoryHistory
from twotower.artefacts.item_changes import DeltaStore

Histories = dict[str, UserHistory]


def queries_of(release: LoadedRelease, histories: list[UserHistory]) -> list[UserQuery]:
    inputs = [read_input(release, UserRequest(RecommendRequest(), history, NOW_MS)) for history in histories]
    return queries_from(release, [new_state(release) for _ in inputs], inputs)


def scores_of(release: LoadedRelease, query: UserQuery) -> Float64s:
    """The score of every item, [N]."""
    scores_N = (release.vectors_NV.numpy() @ query.query_V).astype(np.float64)
    scores_N[query.past_rows_M] = query.past_scores_M
    return scores_N


@pytest.mark.parametrize("scored_at_once", [400, 7])
def test_probabilities_of_the_whole_catalogue_add_up_to_one(
    release: LoadedRelease, histories: Histories, scored_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probability, "_SCORED_AT_ONCE", scored_at_once)
    queries = queries_of(release, [UserHistory(), *list(histories.values())[:4]])
    log_p_QN = log_probabilities(release, queries, np.arange(len(release)))
    np.testing.assert_allclose(np.exp(log_p_QN).sum(1), 1, atol=1e-6)
    scores_QN = np.stack([scores_of(release, query) for query in queries])
    np.testing.assert_allclose(log_p_QN, scores_QN - np.logaddexp.reduce(scores_QN, 1, keepdims=True), atol=1e-5)


def test_some_rows_have_the_probabilities_they_have_among_all(release: LoadedRelease, histories: Histories) -> None:
    queries = queries_of(release, list(histories.values())[:3])
    everything = log_probabilities(release, queries, np.arange(len(release)))
    rows = np.array([0, 3, 17, 399])
    np.testing.assert_allclose(log_probabilities(release, queries, rows), everything[:, rows], atol=1e-5)


@pytest.fixture
def changing(settings: Settings, release: LoadedRelease, tmp_path: Path) -> Iterator[Client]:
    with Client(settings, release, MemoryHistory(), DeltaStore(tmp_path / "delta.db")) as client:
        yield client


def test_items_put_count_and_items_deleted_do_not(changing: Client) -> None:
    def answer(*item_ids: str) -> dict[str, float]:
        response = changing.post("/v1/score", {"candidate_item_ids": item_ids, "timestamp": NOW_MS, "events": [bought]})
        assert response.status_code == 200, response.text
        return {i["item_id"]: i["log_probability"] for i in response.json()["items"]}

    bought = {"event_type": "purchase", "item_id": "new", "timestamp": NOW_MS - 1000}
    everything = [f"item-{i}" for i in range(400)]
    changing.put_items({"item_id": "new", "title": "fresh bread"}, {"item_id": "item-1", "title": "old bread"})
    changing.delete_items("item-2", "item-3")
    scored = answer("new", *everything)
    assert len(scored) == 399
    assert sum(np.exp(list(scored.values()))) == pytest.approx(1, abs=1e-6)


def test_a_user_without_past_items_has_a_normaliser_and_equal_queries_have_equal_ones(release: LoadedRelease) -> None:
    (query,) = queries_of(release, [UserHistory()])
    assert not len(query.past_rows_M)
    (total,) = log_normalisers(release, [query])
    assert total == pytest.approx(np.logaddexp.reduce(scores_of(release, query)), abs=1e-5)
    assert log_normalisers(release, [query] * 3) == pytest.approx([total] * 3)


def test_only_the_rows_asked_about_get_the_scores_of_past_items() -> None:
    scores_QR = np.zeros((2, 3), np.float32)
    queries = [UserQuery(np.zeros(1, np.float32), np.array(rows), np.array(scores, np.float32)) for rows, scores in PAST]
    place_past_items(scores_QR, np.array([4, 7, 9]), queries)
    assert scores_QR.tolist() == [[0, 5, 0], [2, 0, 3]]


def test_where_no_row_is_asked_about_past_items_change_nothing(changing: Client) -> None:
    place_past_items(
        np.zeros((1, 0), np.float32),
        np.zeros(0, np.int64),
        [UserQuery(np.zeros(1, np.float32), np.array([3]), np.ones(1, np.float32))],
    )

    known = next(iter(changing.context.served.current.rows))
    changing.put_items({"item_id": "olives", "title": "blue olives"})
    changing.delete_items("olives")
    seen = {"events": [{"item_id": known, "event_type": "view", "timestamp": NOW_MS}], "candidate_item_ids": [known]}
    assert changing.post("/v1/score", seen).status_code == 200


PAST: list[tuple[list[int], list[float]]] = [([8, 7, 1], [6, 5, 4]), ([9, 12, 4], [3, 1, 2])]
