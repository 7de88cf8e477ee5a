"""Requests answered together, from what is kept of their users, get the answers they get alone and from scratch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.errors import ApiError
from service.api.schemas import Event, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.histories.intake import merge_inline
from service.model.user_states import Keeping
from service.ranking.recommend import ANSWER_COST, Answer, Asked, cost_of, recommend_many
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease

NOW_MS = 1_746_057_600_000
Histories = dict[str, UserHistory]


@pytest.fixture
def own_release(release: LoadedRelease) -> LoadedRelease:
    """The release with nothing kept of anybody."""
    return replace(release)


@pytest.fixture
def keeping() -> Keeping:
    return Keeping(max_bytes=1 << 28)


def asked(user: str | None, history: UserHistory, **fields: Any) -> Asked:
    return Asked(RecommendRequest(user_id=user, **fields), history, NOW_MS)


def from_scratch(release: LoadedRelease, one: Asked) -> Ranking:
    (answer,) = recommend_many(replace(release), [one], Keeping(0))
    return ranking(answer)


def ranking(answer: Answer) -> Ranking:
    assert isinstance(answer, Ranking), answer
    return answer


def same(answer: Answer, expected: Ranking) -> None:
    answer = ranking(answer)
    assert [i.item_id for i in answer.items] == [i.item_id for i in expected.items]
    np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in expected.items], atol=1e-5)
    assert replace(answer, items=[]) == replace(expected, items=[])


def test_a_user_who_comes_back_after_every_event_gets_exact_answers(
    own_release: LoadedRelease, shop_events: list[StoredEvent], keeping: Keeping
) -> None:
    """From 250 to 330 events: the window grows, is full, and its anchor moves."""
    log = sorted(shop_events, key=lambda e: e.time_ms)
    history = UserHistory().extended(log[:250])
    for event in log[250:330]:
        history = history.extended([event])
        one = asked("ann", history)
        (answer,) = recommend_many(own_release, [one], keeping)
        same(answer, from_scratch(own_release, one))
    assert (keeping.hits, keeping.misses) == (79, 1)


def test_the_answers_of_a_batch_are_those_of_each_alone(
    own_release: LoadedRelease, histories: Histories, keeping: Keeping
) -> None:
    some = list(histories.items())[:6]
    batch = [asked(user, history, num_results=5 + place) for place, (user, history) in enumerate(some)]
    batch += [
        asked(None, UserHistory()),
        asked(some[0][0], some[0][1], filter="price < 3"),
        asked(some[1][0], some[1][1], exclude_seen=True),
        asked(some[2][0], some[2][1], validate_only=True),
        asked(some[0][0], some[0][1].extended(some[1][1].events[:1])),
    ]
    for _ in range(2):
        for one, answer in zip(batch, recommend_many(own_release, batch, keeping), strict=True):
            same(answer, from_scratch(own_release, one))


def test_a_request_that_cannot_be_answered_fails_alone(own_release: LoadedRelease, keeping: Keeping) -> None:
    bad, good = asked("ann", UserHistory(), filter="no such column"), asked("bob", UserHistory())
    answers = recommend_many(own_release, [bad, good], keeping)
    assert isinstance(answers[0], ApiError)
    same(answers[1], from_scratch(own_release, good))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["store", "inline", "forget", "other"]), st.integers(0, 7)), max_size=12))
def test_whatever_happened_before_an_answer_is_exact(
    release: LoadedRelease, histories: Histories, steps: list[tuple[str, int]]
) -> None:
    """Events stored, events that a request only brings along, a user deleted, one who is somebody else now."""
    own_release, keeping = replace(release), Keeping(1 << 28)
    users = list(histories.values())
    log = users[0].events + users[1].events
    history = UserHistory().extended(log[:5])
    for kind, number in steps:
        inline: list[Event] = []
        if kind == "store":
            history = history.extended(log[history.num_events % len(log) :][:number])
        elif kind == "forget":
            history = UserHistory()
        elif kind == "other":
            history = users[2 + number]
        else:
            inline = [Event(event_type=e.event_type, timestamp=e.time_ms, item_id=e.item_id) for e in log[-1 - number :]]
        one = asked("ann", history, events=inline)
        assert merge_inline(history, one.request).num_events == history.num_events + len(inline)
        same(recommend_many(own_release, [one], keeping)[0], from_scratch(own_release, one))


def test_users_beyond_the_budget_are_forgotten_and_still_get_exact_answers(
    own_release: LoadedRelease, histories: Histories
) -> None:
    keeping = Keeping(max_bytes=200_000)
    for _ in range(2):
        for user, history in list(histories.items())[:20]:
            one = asked(user, history)
            same(recommend_many(own_release, [one], keeping)[0], from_scratch(own_release, one))
            assert own_release.users.num_bytes <= keeping.max_bytes
    assert keeping.evictions > 0


def test_a_stranger_is_not_kept(own_release: LoadedRelease, histories: Histories, keeping: Keeping) -> None:
    history = next(iter(histories.values()))
    recommend_many(own_release, [asked(None, history), asked("ann", history, history_mode="replace")], keeping)
    assert len(own_release.users) == 0


def test_a_known_user_costs_little(own_release: LoadedRelease, histories: Histories, keeping: Keeping) -> None:
    user, history = max(histories.items(), key=lambda pair: pair[1].num_events)
    one = asked(user, history)
    before = cost_of(own_release, one, ())
    recommend_many(own_release, [one], keeping)
    assert (before, cost_of(own_release, one, ())) == (ANSWER_COST + len(history.window), ANSWER_COST)


def test_an_explained_answer_costs_as_many_as_are_computed_for_it_whoever_asks(
    own_release: LoadedRelease, histories: Histories, keeping: Keeping
) -> None:
    user, history = max(histories.items(), key=lambda pair: pair[1].num_events)
    one = asked(user, history, explain=True)
    recommend_many(own_release, [one], keeping)
    assert cost_of(own_release, one, ()) == 17 * (ANSWER_COST + len(history.window))
    assert cost_of(own_release, asked("new", UserHistory(), explain=True), ()) == ANSWER_COST
