"""Queries of the model for all routes that score items: user by user, from the cached state and the new events.

Runs on the engine's thread. `twotower.model.scoring` computes the same for the offline evaluation, from whole histories; a test
checks that both agree.

Q: requests, M: past items of one
"""

from collections.abc import Iterator, Sequence
from random import random

import numpy as np
import numpy.typing as npt
import torch

from service.api.errors import ApiError
from service.histories.history import StoredEvent
from service.model.item_vectors import fingerprints
from service.model.reader import Question, UserQuery
from service.ranking.user_request import ModelInput
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.states.memory import ArrayMemory, UserKey
from service.states.user_state import NO_RELEASE, PastState, UserState

_NONE = np.zeros(0, np.int64)


def queries_of(
    release: LoadedRelease,
    keys: Sequence[UserKey | None],
    inputs: Sequence[ModelInput],
    cache: UserCache,
    num_others: Sequence[int] | None = None,
) -> list[UserQuery]:
    """The query of each input. A cached state is used and extended; several inputs of one user are computed one after another.

    `num_others` says for how many of the best other items the reader may search for each input.
    """
    queries: dict[int, UserQuery] = {}
    for places in without_repeated_users(keys):
        nums = [num_others[p] for p in places] if num_others else [0] * len(places)
        computed = _queries_of_distinct_users(release, [keys[p] for p in places], [inputs[p] for p in places], nums, cache)
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
    release: LoadedRelease,
    keys: Sequence[UserKey | None],
    inputs: Sequence[ModelInput],
    num_others: Sequence[int],
    cache: UserCache,
) -> list[UserQuery]:
    kept = [release.users.take(key) if key else None for key in keys]
    cache.counters.hits += sum(state is not None for state in kept)
    for place, (key, model_input) in enumerate(zip(keys, inputs, strict=True)):
        if key and kept[place] is None:
            kept[place] = restored(release, key, model_input, cache)
    cache.counters.misses += sum(state is None for state in kept)
    states = [state or new_state(release) for state in kept]
    for state, model_input in zip(states, inputs, strict=True):
        if state.release != release.number:
            state.keep(model_input.known_events)
            move_on(release, state, cache)
    try:
        queries = queries_from(release, states, inputs, num_others)
    except torch.OutOfMemoryError as error:  # the engine tries each request of the batch once more on its own
        cache.counters.out_of_memory += 1
        raise ApiError("overloaded", "the device has too little memory for this batch; try again shortly") from error
    for place, (key, model_input) in enumerate(zip(keys, inputs, strict=True)):
        if kept[place] is not None and random() < cache.verify_share:  # noqa: S311 - a sample
            states[place], queries[place] = verified(release, states[place], queries[place], model_input, cache)
        if key:
            cache.put(release.users, key, states[place])
    return queries


def new_state(release: LoadedRelease) -> UserState:
    """An empty state, for a user of whom nothing was read yet."""
    return UserState(release.reader.new_memory(), release.reader.past_parts(_NONE), release.number)


def restored(release: LoadedRelease, key: UserKey, model_input: ModelInput, cache: UserCache) -> UserState | None:
    """The state of a user from the file of user states, as one of no release yet; None if it has none."""
    if cache.file is None:
        return None
    state = new_state(release)
    if not isinstance(state.memory, ArrayMemory):  # a device has it
        return None
    found = cache.file.find(key, release.state_space, model_input.known_events, state.memory)
    if found is None:
        return None
    cache.counters.restored += 1
    state.events, state.prints_L, state.release = tuple(found.events), found.prints_L, NO_RELEASE
    return state


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
    if error <= release.reader.tolerance:  # False for NaN
        cache.counters.max_error = max(cache.counters.max_error, error)
        return state, query
    cache.counters.failures += 1
    return fresh, again


def queries_from(
    release: LoadedRelease, states: Sequence[UserState], inputs: Sequence[ModelInput], num_others: Sequence[int] | None = None
) -> list[UserQuery]:
    """Read the new events of each history into its state, and make the queries with the scores of past items."""
    nums = num_others or [0] * len(states)
    questions = [_question(release, *parts) for parts in zip(states, inputs, nums, strict=True)]
    queries = release.reader.answer(questions)
    for state, question in zip(states, questions, strict=True):
        if unread := question.events[len(state.prints_L) :]:
            state.prints_L = np.concatenate([state.prints_L, prints_of(release, unread)])
        state.events = question.events
    return queries


def prints_of(release: LoadedRelease, events: Sequence[StoredEvent]) -> npt.NDArray[np.uint64]:
    """Fingerprints [L] of the item vectors of events, as the model reads them: without popularity. Of a search it is 0."""
    rows = np.array([release.rows[event.item_id] for event in events if event.item_id is not None], np.int64)
    prints_L = np.zeros(len(events), np.uint64)  # releases of one bundle embed a query alike
    of_items = fingerprints(release.vectors(rows).numpy()[:, : release.towers.config.model.width])
    prints_L[[event.item_id is not None for event in events]] = of_items
    return prints_L


def move_on(release: LoadedRelease, state: UserState, cache: UserCache) -> None:
    """Make the state of another release of the same bundle one of this release, as far as its items have the same vectors."""
    cache.counters.carried += state.release != NO_RELEASE and len(state.events) > 0
    cache.counters.carried_in_part += state.move_on(
        release.number, prints_of(release, state.events), release.reader.past_parts(_NONE)
    )


def _question(release: LoadedRelease, state: UserState, model_input: ModelInput, num_others: int) -> Question:
    """What the reader needs of one request; events and past items of the state become those of the request."""
    events = model_input.known_events
    state.keep(events)
    update_past_items(release, state, model_input)
    return Question(state.memory, events, state.past, model_input.target_event_type, model_input.now_ms, num_others)


def update_past_items(release: LoadedRelease, state: UserState, model_input: ModelInput) -> None:
    """Update the past items of the state to those of the request."""
    items, reader = model_input.history.items, release.reader
    beyond = state.past.beyond(items)
    if beyond is None:
        state.past, beyond = PastState(reader.past_parts(_NONE)), list(items)
    added = [i for i in beyond if i in release.rows]
    rows = np.array([release.rows[i] for i in added], np.int64)
    state.past.update(items, added, rows, reader.past_parts(rows))
