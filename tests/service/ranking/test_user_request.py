"""What the model reads of a request, and what that costs."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from service.api.schemas import AboutUser, Event, RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.histories.history import KEPT_EVENTS, StoredEvent, UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.user_request import (
    ANSWER_COST,
    MAX_LEFT_OUT,
    SEARCHES_IGNORED,
    UserRequest,
    cost_of,
    cost_unread,
    is_free,
    is_patient,
    key_of,
    read_input,
)
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.states.memory import UserKey
from tests.service.conftest import NOW_MS

ANN: UserKey = ("user", "ann")


def stored(item: str | None, at_ms: int = 5) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=NOW_MS + at_ms, item_id=item)


def inline(*items: str) -> list[Event]:
    return [Event(event_type="view", timestamp=NOW_MS + 1000, item_id=item) for item in items]


def about(history: UserHistory, **fields: Any) -> UserRequest[RecommendRequest]:
    return UserRequest(RecommendRequest(**fields), history, NOW_MS)


def long_history(release: LoadedRelease, num_events: int) -> UserHistory:
    return UserHistory().extended(stored(release.item_ids[n % 400], n) for n in range(num_events))


def test_the_model_reads_the_known_events_of_the_window_and_of_the_request(release: LoadedRelease) -> None:
    history = UserHistory().extended([stored("item-1"), stored("gone"), stored(None), stored("item-2")])
    user_request = about(history, events=inline("item-3", "lost", "gone"), target_event_type="purchase")
    read = read_input(release, user_request)
    assert [event.item_id for event in read.known_events] == ["item-1", "item-2", "item-3"]
    assert (read.num_ignored, read.now_ms, read.target_event_type) == (4, NOW_MS, "purchase")
    assert (read.history.num_events, user_request.stored) == (7, history)
    assert read.missing(release, ["item-9", "new", "lost"]) == ["gone", "lost", "new"]
    by_row = {release.rows[i]: read.history.items[i] for i in ("item-1", "item-2", "item-3")}
    assert read.past_items(release) == by_row


SEARCH = StoredEvent(user_id="ann", event_type="search", time_ms=NOW_MS + 6, query="tea")


def test_a_search_is_read_and_is_no_past_item(release: LoadedRelease) -> None:
    read = read_input(release, about(UserHistory().extended([stored("item-1"), SEARCH, stored(None), stored("gone")])))
    assert [event.query for event in read.known_events] == [None, "tea"]
    assert (read.num_ignored, read.degraded, read.missing(release, [])) == (2, (), ["gone"])
    assert list(read.past_items(release)) == [release.rows["item-1"]]


def test_a_model_that_was_not_trained_on_searches_ignores_them_and_says_so(release: LoadedRelease) -> None:
    config = release.towers.config
    model = msgspec.structs.replace(config.model, query_field=None)
    untaught = replace(release, towers=replace(release.towers, config=msgspec.structs.replace(config, model=model)))
    read = read_input(untaught, about(UserHistory().extended([stored("item-1"), SEARCH])))
    assert [event.item_id for event in read.known_events] == ["item-1"]
    assert (read.num_ignored, read.degraded, read.missing(untaught, [])) == (1, (SEARCHES_IGNORED,), [])
    assert read_input(untaught, about(UserHistory().extended([stored("item-1"), stored("gone")]))).degraded == ()


def test_the_moment_is_the_requests_own_unless_another_is_given(release: LoadedRelease) -> None:
    assert read_input(release, about(UserHistory()), NOW_MS - 7).now_ms == NOW_MS - 7
    assert read_input(release, about(UserHistory()), 0).now_ms == 0


def test_of_a_long_history_the_window_is_read_and_all_items_are_past_items(release: LoadedRelease) -> None:
    read = read_input(release, about(long_history(release, 303)))
    assert len(read.known_events) == 303 - 64  # the anchor of 303 events is 64
    assert len(read.past_items(release)) == 303
    assert (read.num_ignored, read.missing(release, [])) == (0, [])


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"user_id": "ann"}, ANN),
        ({"user_id": "ann", "session_id": "s"}, ANN),
        ({"session_id": "s"}, ("session", "s")),
        ({}, None),
        ({"user_id": "ann", "history_mode": "stored"}, ANN),
        ({"user_id": "ann", "history_mode": "replace"}, None),
        ({"session_id": "s", "history_mode": "replace"}, None),
    ],
)
def test_a_state_is_kept_for_a_user_or_else_a_session_that_would_be_recognised(
    fields: dict[str, Any], key: UserKey | None
) -> None:
    assert key_of(RecommendRequest(**fields)) == key
    assert key_of(ScoreRequest(candidate_item_ids=[], **fields)) == key
    assert about(UserHistory(), **fields).key == key


@pytest.mark.parametrize(
    ("request_", "free", "patient"),
    [
        (RecommendRequest(), False, False),
        (RecommendRequest(validate_only=True), True, False),
        (RecommendRequest(explain=True), False, True),
        (RecommendRequest(explain=True, validate_only=True), True, False),
        (ScoreRequest(candidate_item_ids=["a"]), False, False),
        (SimilarRequest(item_id="a"), False, False),
    ],
)
def test_checking_alone_is_free_and_explaining_lets_others_go_first(request_: AboutUser, free: bool, patient: bool) -> None:
    assert (is_free(request_), is_patient(request_)) == (free, patient)


def test_an_answer_costs_the_events_that_are_read_for_it(release: LoadedRelease) -> None:
    own_release, history = replace(release), long_history(release, 20)
    scored = UserRequest(ScoreRequest(user_id="ann", candidate_item_ids=["item-1"]), history, NOW_MS)
    assert cost_of(own_release, about(UserHistory()), ()) == ANSWER_COST
    assert cost_of(own_release, about(history, user_id="ann", events=inline("item-1", "item-2")), ()) == ANSWER_COST + 22
    assert cost_of(own_release, scored, ()) == ANSWER_COST + 20
    assert cost_of(own_release, about(long_history(release, 303)), ()) == ANSWER_COST + 303 - 64
    many = about(long_history(release, 255), events=inline(*release.item_ids))
    assert cost_of(own_release, many, ()) == ANSWER_COST + KEPT_EVENTS


def test_of_a_user_whose_state_is_kept_or_who_is_being_read_only_what_is_new_costs(release: LoadedRelease) -> None:
    own_release, history = replace(release), long_history(release, 20)
    plain, longer = about(history, user_id="ann"), about(history, user_id="ann", events=inline("item-1"))
    stranger = about(history, user_id="ann", history_mode="replace")
    assert [cost_of(own_release, one, {ANN}) for one in (plain, longer)] == [ANSWER_COST, ANSWER_COST + 1]
    recommend_many(own_release, [plain], UserCache(1 << 28))
    assert [cost_of(own_release, one, ()) for one in (plain, longer)] == [ANSWER_COST, ANSWER_COST + 1]
    assert cost_of(own_release, stranger, {ANN, None}) == ANSWER_COST + 20


def test_what_the_model_is_not_asked_costs_nothing(release: LoadedRelease) -> None:
    history = long_history(release, 20)
    for explain in (False, True):
        checked = about(history, user_id="ann", validate_only=True, explain=explain)
        assert cost_of(release, checked, ()) == cost_unread(release, checked.request, ()) == 0


@pytest.mark.parametrize(("num_events", "num_read"), [(0, 1), (3, 4), (MAX_LEFT_OUT, 17), (200, 17)])
def test_an_explained_answer_costs_a_history_for_each_item_left_out_whoever_asks(
    release: LoadedRelease, num_events: int, num_read: int
) -> None:
    own_release, history = replace(release), long_history(release, num_events)
    explained = about(history, user_id="ann", explain=True)
    recommend_many(own_release, [about(history, user_id="ann")], UserCache(1 << 28))
    assert ANN in own_release.users
    assert cost_of(own_release, explained, ()) == num_read * (ANSWER_COST + num_events)


def test_before_it_is_read_a_history_is_taken_to_be_full_unless_its_user_is_known(release: LoadedRelease) -> None:
    own_release = replace(release)
    ann, stranger = RecommendRequest(user_id="ann"), RecommendRequest()
    assert cost_unread(own_release, ann, ()) == cost_unread(own_release, stranger, {None}) == ANSWER_COST + KEPT_EVENTS
    assert cost_unread(own_release, ann, {ANN}) == ANSWER_COST
    recommend_many(own_release, [about(long_history(release, 20), user_id="ann")], UserCache(1 << 28))
    assert cost_unread(own_release, ann, ()) == ANSWER_COST
