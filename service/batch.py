"""Several requests answered at once from one release. Everything here runs on the engine's thread.

Q: requests, T: new events of all of them, M: own items of one, V: vector width, D: item vector width
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import ApiError
from service.history import StoredEvent, UserHistory
from service.index import LoadedRelease, merged
from service.recommender import Prepared, Ranking, finish, prepare
from service.schemas import RecommendRequest
from service.user_state import Key, OwnState, UserState
from twotower.features import Floats, Ints, event_time_features, request_time_features
from twotower.repeat import activity_features, repeat_features

Answer = Ranking | Exception


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, with what is known of its user at the moment it is about."""

    request: RecommendRequest
    stored: UserHistory
    now_ms: int

    @property
    def key(self) -> Key | None:
        """Whose state it can use; None for a stranger, who would not be recognised again."""
        if self.request.history_mode == "replace":
            return None
        if self.request.user_id is not None:
            return "user", self.request.user_id
        return ("session", self.request.session_id) if self.request.session_id else None


@dataclass(frozen=True, slots=True)
class Scored:
    """What is searched for on behalf of one request, and its own items with their full scores."""

    query_V: Floats
    own_rows_M: Ints
    own_scores_M: Floats


def num_tokens(release: LoadedRelease, asked: Asked) -> int:
    """About how many events the model has to read for a request; may be called on any thread."""
    length = len(asked.stored.window) + len(asked.request.events)
    known = asked.key is not None and asked.key in release.users
    return len(asked.request.events) + 1 if known else length + 1


def recommend_many(release: LoadedRelease, batch: Sequence[Asked], cache_bytes: int) -> list[Answer]:
    """The answer to each request, or why there is none. What the model read is kept in `release.users`, up to `cache_bytes`."""
    answers: list[Answer] = []
    prepared: list[tuple[int, Prepared]] = []
    for asked in batch:
        try:
            one = prepare(release, asked.request, asked.stored, asked.now_ms)
        except ApiError as error:
            answers.append(error)
        else:
            prepared.append((len(answers), one))
            answers.append(finish(release, one, *_nothing()))
    asked_for = [(place, one) for place, one in prepared if not one.asked.validate_only]
    scored: dict[int, Scored] = {}
    for wave in one_of_each_user(batch, [place for place, _ in asked_for]):
        ones = [answer for place, answer in asked_for if place in wave]
        scored |= zip(sorted(wave), score(release, [batch[place].key for place in sorted(wave)], ones, cache_bytes), strict=True)
    for (place, one), (rows, scores) in zip(
        asked_for, search(release, [one for _, one in asked_for], [scored[place] for place, _ in asked_for]), strict=True
    ):
        answers[place] = finish(release, one, rows, scores)
    return answers


def _nothing() -> tuple[Ints, Floats]:
    return np.zeros(0, np.int64), np.zeros(0, np.float32)


def one_of_each_user(batch: Sequence[Asked], places: Sequence[int]) -> Iterator[set[int]]:
    """Places of requests, in parts that have no user twice: a state is read on by one request after the other."""
    waves: list[tuple[set[int], set[Key]]] = []
    for place in places:
        key = batch[place].key
        wave = next((wave for wave in waves if key is None or key not in wave[1]), None)
        if wave is None:
            wave = (set(), set())
            waves.append(wave)
        wave[0].add(place)
        wave[1].update([key] if key else [])
    return iter([members for members, _ in waves])


def score(release: LoadedRelease, keys: Sequence[Key | None], ones: Sequence[Prepared], cache_bytes: int) -> list[Scored]:
    """Read what is new of each user's history, then make the query and score own items."""
    users, reader, model = release.users, release.reader, release.towers.config.model
    states = [(users.take(key) if key else None) or UserState(model, release.no_own_parts) for key in keys]
    read_on(release, states, [one.known for one in ones])
    result = []
    for key, state, one in zip(keys, states, ones, strict=True):
        wanted_D = release.contexts.wanted(one.asked.target_event_type)
        know_own_items(release, state, one)
        statistics = state.own.statistics
        now_Q = np.array([one.now_ms])
        features_M6 = repeat_features(statistics, one.now_ms)
        activity_6 = activity_features(statistics, np.zeros(len(statistics), np.int64), now_Q)[0]
        last_Q = np.array([one.known[-1].time_ms]) if one.known else now_Q
        times = request_time_features(now_Q, last_Q)[0, : model.request_time_width]
        query_X = reader.query(state.memory.last_D, wanted_D, np.concatenate([times, activity_6]), features_M6, state.own.parts)
        query_V, rows_M = reader.vector(query_X), statistics.item_rows_M
        own_scores_M = state.own.parts.vector_MV @ query_V
        own_scores_M += reader.repeat_scores(query_X, features_M6, activity_6, state.own.parts)
        result.append(Scored(query_V, rows_M, own_scores_M))
        if key:
            users.put(key, state, cache_bytes)
    return result


def read_on(release: LoadedRelease, states: Sequence[UserState], histories: Sequence[tuple[StoredEvent, ...]]) -> None:
    """Bring each state to the end of its history: those with one new event in one go, the others in another."""
    todo = [(s, events, kept) for s, events in zip(states, histories, strict=True) if (kept := s.keep(events)) < len(events)]
    for single in (True, False):
        group = [(s, events, kept) for s, events, kept in todo if (len(events) - kept == 1) is single]
        if not group:
            continue
        new = [event for _, events, kept in group for event in events[kept:]]
        rows = np.array([release.rows[e.item_id] for e in new if e.item_id is not None])
        items_TD = release.vectors(rows)[:, : release.towers.config.model.width].numpy()
        # The gap to the event before is part of an event; the first of a window has none.
        times_T6 = np.concatenate([_times(events[max(kept - 1, 0) :])[min(kept, 1) :] for _, events, kept in group])
        events_TD = release.reader.embed_events(items_TD, times_T6, release.contexts.of(new))
        release.reader.read([s.memory for s, _, _ in group], [len(events) - kept for _, events, kept in group], events_TD)
    for state, events in zip(states, histories, strict=True):
        state.events = events


def _times(events: Sequence[StoredEvent]) -> Floats:
    return event_time_features(np.array([e.time_ms for e in events], np.int64))


def know_own_items(release: LoadedRelease, state: UserState, one: Prepared) -> None:
    """Bring the state's own items to those of the request."""
    items = one.history.items
    if not state.own.follows(items):
        state.own = OwnState(release.no_own_parts)
    added = state.own.missing(items, release.rows)
    rows = np.array([release.rows[i] for i in added], np.int64)
    parts = release.reader.own_parts(release.vectors(rows)) if added else release.no_own_parts
    state.own.update(items, added, rows, parts)


def search(release: LoadedRelease, ones: Sequence[Prepared], scored: Sequence[Scored]) -> list[tuple[Ints, Floats]]:
    """Rows and scores of the best of each request, best first; equal scores by the lower row.

    Own items get a repeat score that no index knows: they are scored in full, and the index is searched among the others.
    An answer is shorter than asked only when fewer items are allowed.
    """
    free = [q for q, one in enumerate(ones) if one.search.allowed_N is None]
    found: dict[int, tuple[Ints, Floats]] = {}
    if free:
        queries_QV, without = np.stack([scored[q].query_V for q in free]), [scored[q].own_rows_M for q in free]
        found |= zip(free, release.search_many(queries_QV, max(ones[q].search.k for q in free), without), strict=True)
    result = []
    for q, (one, own) in enumerate(zip(ones, scored, strict=True)):
        mine = slice(None)
        if one.search.allowed_N is not None:
            others_N = one.search.allowed_N.copy()
            others_N[own.own_rows_M] = False
            found[q] = release.search(own.query_V[None], one.search.k, others_N)
            mine = one.search.allowed_N[own.own_rows_M]
        rows, scores = found[q]
        result.append(merged((rows, own.own_rows_M[mine]), (scores, own.own_scores_M[mine]), one.search.k))
    return result
