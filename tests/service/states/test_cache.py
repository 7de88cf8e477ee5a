"""What is kept of users: how far it may be trusted, and who is forgotten first."""

import gc
from collections.abc import Sequence

import numpy as np
import pytest

from service.api.schemas import RecommendRequest
from service.histories.history import PastItem, StoredEvent, UserHistory
from service.model.incremental import Incremental
from service.model.reader import UserQuery
from service.ranking.explain import without
from service.ranking.queries import new_state, queries_from
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache, UserStates, forget_users
from service.states.memory import ArrayMemory
from service.states.user_state import PastState, UserState
from tests.service.conftest import DAY_MS, NOW_MS
from twotower.data.features import Floats


def event(number: int) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=number, item_id="tea")


@pytest.fixture
def state(release: LoadedRelease) -> UserState:
    return new_state(release)


def read(state: UserState, events: tuple[StoredEvent, ...]) -> None:
    """As if the model had read them."""
    memory = state.memory
    assert isinstance(memory, ArrayMemory)
    memory.make_room(max(len(events), 1))
    state.events, memory.length = events, len(events)
    memory.last_D = memory.keys_LGCE[0, 0, 0]


ONE, TWO, THREE, OTHER = (event(n) for n in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("known", "asked", "kept"),
    [
        ((), (ONE, TWO), 0),
        ((ONE,), (ONE, TWO), 1),
        ((ONE, TWO), (ONE, TWO), 2),
        ((ONE, TWO), (TWO, THREE), 0),
        ((ONE, TWO, THREE), (ONE, OTHER), 1),
        ((ONE, TWO, THREE), (ONE, TWO), 1),  # the hidden state after TWO is gone: it is read once more
        ((ONE, TWO), (), 0),
    ],
)
def test_a_state_is_used_as_far_as_its_events_are_those_of_the_request(
    state: UserState, known: tuple[StoredEvent, ...], asked: tuple[StoredEvent, ...], kept: int
) -> None:
    read(state, known)
    assert state.keep(asked) == kept
    assert state.events == asked[:kept]


def test_a_release_keeps_its_own_states_beside_those_that_it_takes_over(release: LoadedRelease) -> None:
    cache, before, heir = UserCache(1 << 28), UserStates(), UserStates()
    for users, names in ((before, "abb"), (heir, "ba")):
        for name in names:
            visit(cache, users, release, name)
    mine = {name: heir.take(("user", name)) for name in "ab"}
    for name, state in mine.items():
        assert state is not None
        cache.put(heir, ("user", name), state)
    visit(cache, before, release, "c")
    num_bytes = before.num_bytes + heir.num_bytes
    cache.hand_over(heir, before)
    assert (len(before), before.num_bytes, len(heir)) == (0, 0, 3)
    assert heir.take(("user", "a")) is mine["a"]
    assert heir.take(("user", "c")) is not None
    assert heir.num_bytes < num_bytes  # of "a" and "b" there were two


def test_past_items_go_on_or_are_begun_anew(release: LoadedRelease) -> None:
    none = release.reader.past_parts(np.zeros(0, np.int64))
    past = PastState(none)
    items = {"tea": PastItem.after(None, ONE), "unknown": PastItem.after(None, ONE)}
    assert past.beyond(items) == ["tea", "unknown"]
    past.update(items, [], np.zeros(0, np.int64), none)
    assert past.beyond(items) == []
    assert past.beyond(items | {"jam": PastItem.after(None, TWO)}) == ["jam"]
    assert past.beyond({"tea": items["tea"]}) is None
    assert past.beyond({"unknown": items["unknown"], "tea": items["tea"]}) is None


def visit(cache: UserCache, users: UserStates, release: LoadedRelease, name: str) -> bool:
    """One request of a user with one event; whether a state was kept of them."""
    known = users.take(("user", name))
    state = known or new_state(release)
    read(state, (ONE,))
    cache.put(users, ("user", name), state)
    return known is not None


def test_who_came_once_is_forgotten_before_who_came_back(release: LoadedRelease, state: UserState) -> None:
    read(state, (ONE,))
    users, cache = UserStates(), UserCache(4 * state.num_bytes)
    for name in ("regular", "regular", *(f"stranger {n}" for n in range(10))):
        visit(cache, users, release, name)
    assert len(users) == 4
    assert cache.counters.evictions == 7
    assert visit(cache, users, release, "regular")
    assert not visit(cache, users, release, "stranger 0")
    assert visit(cache, users, release, "stranger 9")


def test_bytes_are_counted_and_given_back(state: UserState) -> None:
    users, cache = UserStates(), UserCache(1 << 20)
    read(state, (ONE,))
    cache.put(users, ("user", "ann"), state)
    assert (
        users.num_bytes == cache.num_bytes == cache.counters.num_bytes == users.bytes_of(("user", "ann")) == state.num_bytes > 0
    )
    users.drop(("user", "ann"))
    assert (users.num_bytes, cache.num_bytes, len(users), users.bytes_of(("user", "ann"))) == (0, 0, 0, None)


def test_releases_share_one_budget_and_the_oldest_of_any_goes_first(release: LoadedRelease, state: UserState) -> None:
    read(state, (ONE,))
    current, trial, cache = UserStates(), UserStates(), UserCache(4 * state.num_bytes)
    for name, users in (("a", current), ("b", trial), ("c", current), ("d", trial), ("e", trial)):
        visit(cache, users, release, name)
    assert (len(current), len(trial), cache.counters.evictions) == (1, 3, 1)
    assert ("user", "a") not in current
    visit(cache, current, release, "f")
    assert ("user", "b") not in trial
    assert cache.num_bytes == current.num_bytes + trial.num_bytes == 4 * state.num_bytes


def test_who_came_back_to_one_release_outlasts_who_came_once_to_another(release: LoadedRelease, state: UserState) -> None:
    read(state, (ONE,))
    current, trial, cache = UserStates(), UserStates(), UserCache(4 * state.num_bytes)
    for name in ("regular", "regular"):
        visit(cache, current, release, name)
    for number in range(10):
        visit(cache, trial, release, f"stranger {number}")
    assert (len(current), len(trial)) == (1, 3)


def test_users_who_came_back_to_any_release_leave_room_for_new_users(release: LoadedRelease, state: UserState) -> None:
    read(state, (ONE,))
    current, trial, cache = UserStates(), UserStates(), UserCache(5 * state.num_bytes)
    for number in range(3):
        for users in (current, trial):
            visit(cache, users, release, f"regular {number}")
            visit(cache, users, release, f"regular {number}")
    assert current.num_again + trial.num_again == 4
    assert current.again_bytes + trial.again_bytes == 4 * state.num_bytes
    visit(cache, current, release, "new")
    assert visit(cache, current, release, "new"), "there was room until the second request"


def test_a_state_larger_than_the_whole_budget_is_not_kept(state: UserState) -> None:
    read(state, (ONE,))
    users, cache = UserStates(), UserCache(state.num_bytes - 1)
    cache.put(users, ("user", "ann"), state)
    assert (len(users), cache.num_bytes, cache.counters.evictions) == (0, 0, 1)


def test_a_release_that_is_let_go_frees_its_share(release: LoadedRelease, state: UserState) -> None:
    read(state, (ONE,))
    before, current, cache = UserStates(), UserStates(), UserCache(4 * state.num_bytes)
    for name in ("a", "b", "c"):
        visit(cache, before, release, name)
    visit(cache, current, release, "d")
    assert cache.num_bytes == 4 * state.num_bytes
    del before
    gc.collect()
    assert cache.num_bytes == state.num_bytes
    for name in ("e", "f", "g"):
        visit(cache, current, release, name)
    assert (len(current), cache.counters.evictions) == (4, 0)


def test_users_are_forgotten_whether_anything_is_kept_of_them_or_not(release: LoadedRelease) -> None:
    users, cache = UserStates(), UserCache(1 << 20)
    for name in ("ann", "ann", "bob", "eve"):
        visit(cache, users, release, name)
    assert forget_users(users, [("user", "ann"), ("user", "nobody"), ("user", "bob")], UserCache(0)) == [None] * 3
    assert [("user", name) in users for name in ("ann", "bob", "eve")] == [False, False, True]
    assert not visit(cache, users, release, "ann")


def history_of(release: LoadedRelease, item_ids: str) -> UserHistory:
    """A view of an item a day; each letter is another item, and `?` one that the release does not have."""
    return UserHistory().extended(
        StoredEvent(
            user_id="ann",
            event_type="view",
            time_ms=NOW_MS - DAY_MS * (len(item_ids) - day),
            item_id="unknown" if letter == "?" else release.item_ids[ord(letter) - ord("a")],
        )
        for day, letter in enumerate(item_ids)
    )


def input_of(release: LoadedRelease, history: UserHistory) -> ModelInput:
    return read_input(release, UserRequest(RecommendRequest(user_id="ann"), history, NOW_MS))


def query_from(release: LoadedRelease, state: UserState, model_input: ModelInput) -> UserQuery:
    (query,) = queries_from(release, [state], [model_input])
    return query


def assert_same(query: UserQuery, expected: UserQuery) -> None:
    np.testing.assert_allclose(query.query_V, expected.query_V, atol=2e-5)
    assert query.past_rows_M.tolist() == expected.past_rows_M.tolist()
    np.testing.assert_allclose(query.past_scores_M, expected.past_scores_M, atol=2e-5)


@pytest.mark.parametrize("item_ids", ["a", "ab", "ba", "bab", "abcda?b", "bc?da", "aabbaa", "bbba", "b" * 70 + "a" + "c" * 70])
def test_a_copy_without_an_item_answers_as_if_the_user_had_never_met_it(
    release: LoadedRelease, state: UserState, item_ids: str
) -> None:
    whole = input_of(release, history_of(release, item_ids))
    before = query_from(release, state, whole)
    shorter = without(whole, release.item_ids[0])
    query = query_from(release, state.without(release.item_ids[0], 0), shorter)
    assert_same(query, query_from(release, new_state(release), shorter))
    assert 0 not in query.past_rows_M
    assert_same(query_from(release, state, whole), before)


def test_a_copy_reads_only_what_follows_the_item_that_it_never_met(
    release: LoadedRelease, state: UserState, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = input_of(release, history_of(release, "bcdeabc"))
    query_from(release, state, whole)
    num_read: list[int] = []
    read = Incremental.read

    def counted(self: Incremental, memories: Sequence[ArrayMemory], counts: Sequence[int], events_TD: Floats) -> None:
        num_read.extend(counts)
        read(self, memories, counts, events_TD)

    monkeypatch.setattr(Incremental, "read", counted)
    query_from(release, state.without(release.item_ids[0], 0), without(whole, release.item_ids[0]))
    assert num_read == [2]
