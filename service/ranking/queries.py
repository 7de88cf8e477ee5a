"""Queries of the model for all routes that score items: user by user, from the cached state and the new events.

Runs on the engine's thread. `twotower.model.scoring` computes the same for the offline evaluation, from whole histories; a test
checks that both agree.

Q: requests, T: new events of all of them, M: past items of one, V: vector width, D: item vector width
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import random

import numpy as np

from service.histories.history import StoredEvent
from service.model.user_states import PastState, UserCache, UserKey, UserState
from service.ranking.user_request import ModelInput
from service.release.loaded import LoadedRelease
from twotower.data.features import Floats, Ints, event_time_features, request_time_features
from twotower.data.item_statistics import activity_features, past_features

TOLERANCE = 1e-3  # of a score when a cached state is verified; rounding changes a score by a hundredth of that


@dataclass(frozen=True, slots=True)
class UserQuery:
    """The query vector of one request, and the full scores of its past items.

    The score of any other item is the inner product of its vector with the query. A past item's score here also includes its
    repeat score.
    """

    query_V: Floats
    past_rows_M: Ints
    past_scores_M: Floats


def queries_of(
    release: LoadedRelease, keys: Sequence[UserKey | None], inputs: Sequence[ModelInput], cache: UserCache
) -> list[UserQuery]:
    """The query of each input. A cached state is used and extended; several inputs of one user are computed one after another."""
    queries: dict[int, UserQuery] = {}
    for places in without_repeated_users(keys):
        computed = _queries_of_distinct_users(release, [keys[p] for p in places], [inputs[p] for p in places], cache)
        queries |= zip(places, computed, strict=True)
    return [queries[place] for place in range(len(inputs))]


def without_repeated_users(keys: Sequence[UserKey | None]) -> Iterator[list[int]]:
    """Places of requests in groups, so that no group has a user twice."""
    groups: list[tuple[list[int], set[UserKey]]] = []
    for place, key in enumerate(keys):
        group = next((group for group in groups if key is None or key not in group[1]), None)
        if group is None:
            group = ([], set())
            groups.append(group)
        group[0].append(place)
        group[1].update([key] if key else [])
    return iter([places for places, _ in groups])


def _queries_of_distinct_users(
    release: LoadedRelease, keys: Sequence[UserKey | None], inputs: Sequence[ModelInput], cache: UserCache
) -> list[UserQuery]:
    kept = [release.users.take(key) if key else None for key in keys]
    cache.counters.hits += sum(state is not None for state in kept)
    cache.counters.misses += sum(state is None for state in kept)
    states = [state or new_state(release) for state in kept]
    queries = queries_from(release, states, inputs)
    for place, (key, model_input) in enumerate(zip(keys, inputs, strict=True)):
        if kept[place] is not None and random() < cache.verify_share:  # noqa: S311 - a sample
            states[place], queries[place] = verified(release, states[place], queries[place], model_input, cache)
        if key:
            cache.put(release.users, key, states[place])
    return queries


def new_state(release: LoadedRelease) -> UserState:
    """An empty state, for a user of whom nothing was read yet."""
    return UserState(release.towers.config.model, release.no_past_parts)


def verified(
    release: LoadedRelease, state: UserState, query: UserQuery, model_input: ModelInput, cache: UserCache
) -> tuple[UserState, UserQuery]:
    """Compare state and query with ones computed from scratch. Returns the given ones if they agree, otherwise the new ones."""
    fresh = new_state(release)
    (again,) = queries_from(release, [fresh], [model_input])
    past = [q.past_scores_M[np.argsort(q.past_rows_M)] for q in (query, again)]
    error = np.inf
    if np.array_equal(np.sort(query.past_rows_M), np.sort(again.past_rows_M)):
        error = max(float(np.abs(a - b).max(initial=0)) for a, b in ((query.query_V, again.query_V), past))
    cache.counters.verified += 1
    if error <= TOLERANCE:  # False for NaN
        cache.counters.max_error = max(cache.counters.max_error, error)
        return state, query
    cache.counters.failures += 1
    return fresh, again


def queries_from(release: LoadedRelease, states: Sequence[UserState], inputs: Sequence[ModelInput]) -> list[UserQuery]:
    """Read the new events of each history into its state, then compute queries and the scores of past items."""
    reader, model = release.reader, release.towers.config.model
    read_on(release, states, [model_input.known_events for model_input in inputs])
    queries = []
    for state, model_input in zip(states, inputs, strict=True):
        update_past_items(release, state, model_input)
        statistics, parts = state.past.statistics, state.past.parts
        now_Q = np.array([model_input.now_ms])
        features_M6 = past_features(statistics, model_input.now_ms)
        activity_6 = activity_features(statistics, np.zeros(len(statistics), np.int64), now_Q)[0]
        last_Q = np.array([model_input.known_events[-1].time_ms]) if model_input.known_events else now_Q
        times = request_time_features(now_Q, last_Q)[0, : model.request_time_width]
        wanted_D = release.contexts.wanted(model_input.target_event_type)
        query_X = reader.query(state.memory.last_D, wanted_D, np.concatenate([times, activity_6]), features_M6, parts)
        query_V = reader.vector(query_X)
        past_scores_M = parts.vector_MV @ query_V + reader.repeat_scores(query_X, features_M6, activity_6, parts)
        queries.append(UserQuery(query_V, statistics.item_rows_M, past_scores_M))
    return queries


def read_on(release: LoadedRelease, states: Sequence[UserState], histories: Sequence[tuple[StoredEvent, ...]]) -> None:
    """Bring each state to the end of its history. States with one new event are read together, and then all others."""
    todo = [(s, events, kept) for s, events in zip(states, histories, strict=True) if (kept := s.keep(events)) < len(events)]
    for single in (True, False):
        group = [(s, events, kept) for s, events, kept in todo if (len(events) - kept == 1) is single]
        if not group:
            continue
        new = [event for _, events, kept in group for event in events[kept:]]
        rows = np.array([release.rows[e.item_id] for e in new if e.item_id is not None])
        items_TD = release.vectors(rows)[:, : release.towers.config.model.width].numpy()
        # The time since the previous event is part of an event's input, so that event is included here and cut off again.
        times_T6 = np.concatenate([_times(events[max(kept - 1, 0) :])[min(kept, 1) :] for _, events, kept in group])
        events_TD = release.reader.embed_events(items_TD, times_T6, release.contexts.of(new))
        release.reader.read([s.memory for s, _, _ in group], [len(events) - kept for _, events, kept in group], events_TD)
    for state, events in zip(states, histories, strict=True):
        state.events = events


def _times(events: Sequence[StoredEvent]) -> Floats:
    return event_time_features(np.array([e.time_ms for e in events], np.int64))


def update_past_items(release: LoadedRelease, state: UserState, model_input: ModelInput) -> None:
    """Update the past items of the state to those of the request."""
    items = model_input.history.items
    beyond = state.past.beyond(items)
    if beyond is None:
        state.past, beyond = PastState(release.no_past_parts), list(items)
    added = [i for i in beyond if i in release.rows]
    rows = np.array([release.rows[i] for i in added], np.int64)
    parts = release.reader.past_parts(release.vectors(rows).numpy()) if added else release.no_past_parts
    state.past.update(items, added, rows, parts)
