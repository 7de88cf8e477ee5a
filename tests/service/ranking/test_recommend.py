"""Requests answered together, from what is kept of their users, get the answers they get alone and from scratch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from tests.service.conftest import NOW_MS

Histories = dict[str, UserHistory]


@pytest.fixture
def own_release(release: LoadedRelease) -> LoadedRelease:
    """The release with nothing kept of anybody."""
    return replace(release)


@pytest.fixture
def cache() -> UserCache:
    return UserCache(max_bytes=1 << 28)


def request(user: str | None, history: UserHistory, **fields: Any) -> UserRequest[RecommendRequest]:
    return UserRequest(RecommendRequest(user_id=user, **fields), history, NOW_MS)


def from_scratch(release: LoadedRelease, user_request: UserRequest[RecommendRequest]) -> Ranking:
    (answer,) = recommend_many(replace(release), [user_request], UserCache(0))
    return ranking(answer)


def ranking(answer: Ranking | Exception) -> Ranking:
    assert isinstance(answer, Ranking), answer
    return answer


def same(answer: Ranking | Exception, expected: Ranking) -> None:
    answer = ranking(answer)
    assert [i.item_id for i in answer.items] == [i.item_id for i in expected.items]
    np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in expected.items], atol=1e-5)
    assert replace(answer, items=[]) == replace(expected, items=[])


def test_a_user_who_comes_back_after_every_event_gets_exact_answers(
    own_release: LoadedRelease, shop_events: list[StoredEvent], cache: UserCache
) -> None:
    """From 250 to 330 events: the window grows, is full, and its anchor moves."""
    log = sorted(shop_events, key=lambda e: e.time_ms)
    history = UserHistory().extended(log[:250])
    for event in log[250:330]:
        history = history.extended([event])
        user_request = request("ann", history)
        (answer,) = recommend_many(own_release, [user_request], cache)
        same(answer, from_scratch(own_release, user_request))
    assert (cache.counters.hits, cache.counters.misses) == (79, 1)


def test_the_answers_of_a_batch_are_those_of_each_alone(
    own_release: LoadedRelease, histories: Histories, cache: UserCache
) -> None:
    some = list(histories.items())[:6]
    batch = [request(user, history, num_results=5 + place) for place, (user, history) in enumerate(some)]
    batch += [
        request(None, UserHistory()),
        request(some[0][0], some[0][1], filter="price < 3"),
        request(some[1][0], some[1][1], exclude_seen=True),
        request(some[2][0], some[2][1], validate_only=True),
        request(some[0][0], some[0][1].extended(some[1][1].events[:1])),
    ]
    for _ in range(2):
        for user_request, answer in zip(batch, recommend_many(own_release, batch, cache), strict=True):
            same(answer, from_scratch(own_release, user_request))


def test_a_request_that_cannot_be_answered_fails_alone(own_release: LoadedRelease, cache: UserCache) -> None:
    bad, good = request("ann", UserHistory(), filter="no such column"), request("bob", UserHistory())
    answers = recommend_many(own_release, [bad, good], cache)
    assert isinstance(answers[0], ApiError)
    same(answers[1], from_scratch(own_release, good))


def test_a_stranger_is_not_kept(own_release: LoadedRelease, histories: Histories, cache: UserCache) -> None:
    history = next(iter(histories.values()))
    recommend_many(own_release, [request(None, history), request("ann", history, history_mode="replace")], cache)
    assert len(own_release.users) == 0
