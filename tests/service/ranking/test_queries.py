"""Queries made from what is kept of users equal those made from scratch, and those of the offline evaluation.

N: items
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving_rivals.offline import offline_request, offline_scores
from service.api.schemas import Event, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.model.cpu_reader import TOLERANCE, CpuReader
from service.model.reader import Question, UserQuery
from service.ranking.queries import (
    new_state,
    queries_from,
    queries_of,
    verified,
    without_repeated_users,
)
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease, hand_over_users
from service.states.cache import UserCache
from service.states.memory import UserKey
from service.states.user_state import UserState
from tests.service.conftest import NOW_MS, with_searches
from twotower.data.features import Floats

Histories = dict[str, UserHistory]
ANN: UserKey = ("user", "ann")


@pytest.fixture
def own_release(release: LoadedRelease) -> LoadedRelease:
    """The release with nothing kept of anybody."""
    return replace(release)


@pytest.fixture
def cache() -> UserCache:
    return UserCache(max_bytes=1 << 28)


def input_of(release: LoadedRelease, history: UserHistory, **fields: Any) -> ModelInput:
    return read_input(release, UserRequest(RecommendRequest(**fields), history, NOW_MS))


def from_scratch(release: LoadedRelease, model_input: ModelInput) -> UserQuery:
    (query,) = queries_from(release, [new_state(release)], [model_input])
    return query


def scores_of(release: LoadedRelease, query: UserQuery) -> Floats:
    """The score of every item, [N]."""
    scores_N = np.array(release.vectors_NV.numpy() @ query.query_V)
    scores_N[query.past_rows_M] = query.past_scores_M
    return scores_N


def check_same(release: LoadedRelease, query: UserQuery, expected: UserQuery) -> None:
    assert set(query.past_rows_M.tolist()) == set(expected.past_rows_M.tolist())
    np.testing.assert_allclose(scores_of(release, query), scores_of(release, expected), rtol=0, atol=1e-5)


def test_scores_from_a_kept_state_are_those_of_the_offline_evaluation(
    own_release: LoadedRelease, histories: Histories, cache: UserCache
) -> None:
    wanted = [None, "purchase", "view"]
    for kept in range(2):
        for place, (user, history) in enumerate([("nobody", UserHistory()), *list(histories.items())[:12]]):
            fewer = history if kept else UserHistory().extended(history.events[:-3])
            model_input = input_of(own_release, fewer, target_event_type=wanted[place % 3])
            (query,) = queries_of(own_release, [("user", user)], [model_input], cache)
            request = offline_request(own_release, model_input.history, model_input.now_ms, model_input.target_event_type)
            expected_N = offline_scores(own_release, request)
            np.testing.assert_allclose(scores_of(own_release, query), expected_N, rtol=0, atol=1e-4)
    assert (cache.counters.hits, cache.counters.misses) == (13, 13)


def test_a_user_who_comes_back_after_every_event_gets_exact_queries(
    own_release: LoadedRelease, shop_events: list[StoredEvent], cache: UserCache
) -> None:
    """From 250 to 330 events: the window grows, is full, and its anchor moves."""
    log = with_searches(sorted(shop_events, key=lambda e: e.time_ms))
    history = UserHistory().extended(log[:250])
    for event in log[250:330]:
        history = history.extended([event])
        model_input = input_of(own_release, history)
        (query,) = queries_of(own_release, [ANN], [model_input], cache)
        check_same(own_release, query, from_scratch(own_release, model_input))
    assert (cache.counters.hits, cache.counters.misses) == (79, 1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["store", "inline", "forget", "other"]), st.integers(0, 7)), max_size=12))
def test_whatever_happened_before_a_query_is_exact(
    release: LoadedRelease, histories: Histories, steps: list[tuple[str, int]]
) -> None:
    """Events stored, events that only one request brings along, a user deleted, a user who is somebody else now."""
    own_release, cache = replace(release), UserCache(1 << 28)
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
        model_input = input_of(own_release, history, events=inline)
        assert model_input.history.num_events == history.num_events + len(inline)
        (query,) = queries_of(own_release, [ANN], [model_input], cache)
        check_same(own_release, query, from_scratch(own_release, model_input))


def another(release: LoadedRelease, share: float, seed: int = 0) -> LoadedRelease:
    """A later release of the same bundle: other rows, other popularity, and other vectors for a share of the items."""
    rng, width = np.random.default_rng(seed), release.towers.config.model.width
    order = rng.permutation(len(release))
    vectors_NV = release.vectors_NV.numpy()[order].copy()
    vectors_NV[:, width:] += rng.normal(size=vectors_NV[:, width:].shape).astype(np.float32)
    vectors_NV[rng.random(len(release)) < share, :width] *= 1.5
    item_ids = [release.item_ids[row] for row in order]
    return replace(
        release,
        vectors_NV=torch.from_numpy(vectors_NV),
        item_ids=item_ids,
        rows={item_id: row for row, item_id in enumerate(item_ids)},
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_states_taken_over_from_earlier_releases_give_exact_queries(
    own_release: LoadedRelease, histories: Histories, cache: UserCache, share: float
) -> None:
    before, users = own_release, list(histories.items())[:12]
    for seed in range(3):
        for place, (user, history) in enumerate(users):
            if place % 3 == seed or seed == 0:  # the others come back only after further releases
                model_input = input_of(before, history.extended(history.events[:seed]))
                (query,) = queries_of(before, [("user", user)], [model_input], cache)
                check_same(before, query, from_scratch(before, model_input))
        heir = another(before, share, seed)
        hand_over_users(cache, heir, before)
        assert (len(heir.users), len(before.users)) == (12, 0)
        before = heir
    assert cache.counters.misses == 12
    assert cache.counters.carried == cache.counters.hits == 8
    assert (cache.counters.carried_in_part > 0) is (share > 0)


def test_a_release_in_which_only_popularity_changed_reads_no_event_again(
    own_release: LoadedRelease, histories: Histories, cache: UserCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read, read = list[int](), CpuReader.answer

    def noted(reader: CpuReader, questions: Sequence[Question]) -> list[UserQuery]:
        num_read.extend(len(question.events) - question.memory.length for question in questions)
        return read(reader, questions)

    monkeypatch.setattr(CpuReader, "answer", noted)
    user, history = next(iter(histories.items()))
    fewer, heir = UserHistory().extended(history.events[:-1]), another(own_release, share=0)
    queries_of(own_release, [("user", user)], [input_of(own_release, fewer)], cache)
    hand_over_users(cache, heir, own_release)
    queries_of(heir, [("user", user)], [input_of(heir, history)], cache)
    assert num_read == [len(fewer.window), 1]


def test_states_of_another_bundle_are_not_taken_over(own_release: LoadedRelease, histories: Histories, cache: UserCache) -> None:
    queries_of(own_release, [ANN], [input_of(own_release, next(iter(histories.values())))], cache)
    heir = replace(own_release, info=msgspec.structs.replace(own_release.info, bundle_id="bundle-000000000000"))
    hand_over_users(cache, heir, own_release)
    assert (len(heir.users), len(own_release.users)) == (0, 1)


def test_users_beyond_the_budget_are_forgotten_and_still_get_exact_queries(
    own_release: LoadedRelease, histories: Histories
) -> None:
    cache = UserCache(max_bytes=200_000)
    for _ in range(2):
        for user, history in list(histories.items())[:20]:
            model_input = input_of(own_release, history)
            (query,) = queries_of(own_release, [("user", user)], [model_input], cache)
            check_same(own_release, query, from_scratch(own_release, model_input))
            assert own_release.users.num_bytes <= cache.max_bytes
    assert cache.counters.evictions > 0


def test_a_stranger_is_not_kept(own_release: LoadedRelease, histories: Histories, cache: UserCache) -> None:
    model_input = input_of(own_release, next(iter(histories.values())))
    queries_of(own_release, [None, None], [model_input] * 2, cache)
    assert (len(own_release.users), cache.counters.hits, cache.counters.misses) == (0, 0, 2)


def test_a_user_who_is_twice_among_the_inputs_gets_the_query_of_each_in_its_place(
    own_release: LoadedRelease, histories: Histories, cache: UserCache
) -> None:
    first, second = list(histories.values())[:2]
    inputs = [input_of(own_release, h) for h in (first, second, first.extended(second.events[:1]), UserHistory(), second)]
    keys: list[UserKey | None] = [ANN, ("user", "bob"), ANN, None, ("user", "bob")]
    for model_input, query in zip(inputs, queries_of(own_release, keys, inputs, cache), strict=True):
        check_same(own_release, query, from_scratch(own_release, model_input))
    assert (cache.counters.hits, cache.counters.misses) == (2, 3)


@pytest.mark.parametrize(
    ("names", "groups"),
    [("", []), ("ab", [[0, 1]]), ("aba", [[0, 1], [2]]), ("aaa", [[0], [1], [2]]), ("-a-a-", [[0, 1, 2, 4], [3]])],
)
def test_no_group_has_a_user_twice_and_strangers_are_all_in_the_first(names: str, groups: list[list[int]]) -> None:
    keys = [None if name == "-" else ("user", name) for name in names]
    assert list(without_repeated_users(keys)) == groups


def spoiled(release: LoadedRelease, model_input: ModelInput, error: float) -> tuple[UserState, UserQuery]:
    """A state and a query of it whose first number is wrong."""
    state = new_state(release)
    (query,) = queries_from(release, [state], [model_input])
    query_V = query.query_V.copy()
    query_V[0] += error
    return state, replace(query, query_V=query_V)


def test_a_state_that_is_right_stays_whatever_the_order_of_its_past_items(
    own_release: LoadedRelease, histories: Histories, cache: UserCache
) -> None:
    model_input = input_of(own_release, next(h for h in histories.values() if len(h.items) > 2))
    state, query = spoiled(own_release, model_input, TOLERANCE / 2)
    turned = UserQuery(query.query_V, query.past_rows_M[::-1], query.past_scores_M[::-1])
    kept_state, kept = verified(own_release, state, turned, model_input, cache)
    assert kept_state is state
    assert kept is turned
    assert (cache.counters.verified, cache.counters.failures) == (1, 0)
    assert cache.counters.max_error == pytest.approx(TOLERANCE / 2, rel=0.01)


@pytest.mark.parametrize("error", [2 * TOLERANCE, np.nan])
def test_a_state_that_is_wrong_is_replaced_and_counted(
    own_release: LoadedRelease, histories: Histories, cache: UserCache, error: float
) -> None:
    model_input = input_of(own_release, next(iter(histories.values())))
    state, query = spoiled(own_release, model_input, error)
    fresh_state, fresh = verified(own_release, state, query, model_input, cache)
    assert fresh_state is not state
    check_same(own_release, fresh, from_scratch(own_release, model_input))
    assert (cache.counters.verified, cache.counters.failures, cache.counters.max_error) == (1, 1, 0)


def test_a_state_of_other_past_items_is_wrong(own_release: LoadedRelease, histories: Histories, cache: UserCache) -> None:
    model_input = input_of(own_release, next(h for h in histories.values() if len(h.items) > 2))
    state, query = spoiled(own_release, model_input, 0)
    fewer = UserQuery(query.query_V, query.past_rows_M[1:], query.past_scores_M[1:])
    assert verified(own_release, state, fewer, model_input, cache)[0] is not state
    assert cache.counters.failures == 1


@pytest.mark.parametrize(("share", "num_verified"), [(0.0, 0), (1.0, 2)])
def test_the_share_of_kept_states_that_the_cache_asks_for_is_verified(
    own_release: LoadedRelease, histories: Histories, share: float, num_verified: int
) -> None:
    cache = UserCache(1 << 28, verify_share=share)
    some: Sequence[tuple[str, UserHistory]] = list(histories.items())[:2]
    for _ in range(2):
        inputs = [input_of(own_release, history) for _, history in some]
        queries_of(own_release, [("user", user) for user, _ in some], inputs, cache)
    assert (cache.counters.verified, cache.counters.failures) == (num_verified, 0)
