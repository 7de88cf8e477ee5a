"""The competitors' answers are as exact as ours, because otherwise the comparison would be unfair."""

from pathlib import Path

import pytest

from benchmarks.serving_rivals.plain_model import Events, PlainModel, Question, Told
from service.api.schemas import RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.states.cache import UserCache

NOW_MS = 1_746_057_600_000
PROPERTIES = {"price_paid": 2.5, "channel": "shop"}


@pytest.fixture(scope="module")
def release(tiny_store: Path) -> LoadedRelease:
    return load_release(tiny_store)


@pytest.fixture(scope="module")
def model(tiny_store: Path) -> PlainModel:
    return PlainModel.load(tiny_store, 1)


def told(model: PlainModel, number: int) -> list[Told]:
    """Another history for each number, an unknown item among its items."""
    chosen = [model.item_ids[(number * 7 + place * place) % len(model.item_ids)] for place in range(5 + number)]
    return [Told(item_id, "purchase", NOW_MS - 1000 * (50 - n), PROPERTIES) for n, item_id in enumerate([*chosen, "unknown"])]


def ours(release: LoadedRelease, events: list[Told]) -> list[tuple[str, float]]:
    stored = [
        StoredEvent(user_id="u", event_type=e.event_type, time_ms=e.time_ms, item_id=e.item_id, properties=dict(e.properties))
        for e in events
    ]
    user_request = UserRequest(RecommendRequest(), UserHistory().extended(stored), NOW_MS)
    (ranking,) = recommend_many(release, [user_request], UserCache(0))
    assert isinstance(ranking, Ranking)
    return [(item.item_id, item.score) for item in ranking.items]


def encoded_one_by_one(model: PlainModel, events: list[Told]) -> Events:
    result = model.encode([])
    for event in events:
        result = result.followed_by(model.encode([event]))
    return result


def test_a_batch_gets_the_answers_that_our_service_gives(model: PlainModel, release: LoadedRelease) -> None:
    histories = [told(model, number) for number in (0, 3, 11)]

    answers = model.recommend([Question(encoded_one_by_one(model, events), NOW_MS, 10) for events in histories])

    for answer, events in zip(answers, histories, strict=True):
        expected = ours(release, events)
        assert [item_id for item_id, _ in answer] == [item_id for item_id, _ in expected]
        assert [score for _, score in answer] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_a_user_without_history_is_answered(model: PlainModel, release: LoadedRelease) -> None:
    (answer,) = model.recommend([Question(model.encode([]), NOW_MS, 10)])
    assert [item_id for item_id, _ in answer] == [item_id for item_id, _ in ours(release, [])]
