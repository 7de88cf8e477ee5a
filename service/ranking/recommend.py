"""Several requests answered at once from one release. Everything here runs on the engine's thread.

Q: requests, T: new events of all of them, M: past items of one, V: vector width, D: item vector width
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from random import random

import numpy as np

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.histories.history import KEPT_EVENTS, StoredEvent, UserHistory
from service.model.user_states import Keeping, Key, PastState, UserState
from service.ranking.arrangement import Found, Search
from service.ranking.explain import MAX_LEFT_OUT
from service.ranking.rules import Prepared, Ranking, finish, prepare
from service.release.loaded import LoadedRelease, merged
from twotower.data.features import Floats, Ints, event_time_features, request_time_features
from twotower.data.item_statistics import activity_features, past_features

Answer = Ranking | Exception

ANSWER_COST = 32  # events that could be read in the time that the search and the rest of an answer take, about
TOLERANCE = 1e-3  # of a score: rounding moves it by a hundredth of that


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, with what is known of its user at the moment it is about."""

    request: RecommendRequest
    stored: UserHistory
    now_ms: int

    @property
    def key(self) -> Key | None:
        """Whose state it can use."""
        return key_of(self.request)


def key_of(request: RecommendRequest) -> Key | None:
    """Whose state a request can use; None for a stranger, who would not be recognised again."""
    if request.history_mode == "replace":
        return None
    if request.user_id is not None:
        return "user", request.user_id
    return ("session", request.session_id) if request.session_id else None


@dataclass(frozen=True, slots=True)
class Scored:
    """What is searched for on behalf of one request, and its past items with their full scores."""

    query_V: Floats
    past_rows_M: Ints
    past_scores_M: Floats


def cost_of(release: LoadedRelease, asked: Asked, queued: Container[Key | None]) -> int:
    """About how much work a request is, in events that the model reads; others of the users `queued` are answered before it.

    May be called on any thread.
    """
    num_new = min(len(asked.request.events), KEPT_EVENTS)
    num_all = min(len(asked.stored.window) + num_new, KEPT_EVENTS)
    if asked.request.explain:  # an answer from scratch for each item that is left out
        return (1 + min(num_all, MAX_LEFT_OUT)) * (ANSWER_COST + num_all)
    if asked.key is not None and (asked.key in queued or asked.key in release.users):
        return ANSWER_COST + num_new
    return ANSWER_COST + num_all


def recommend_many(release: LoadedRelease, batch: Sequence[Asked], keeping: Keeping) -> list[Answer]:
    """The answer to each request, or why there is none. What the model read is kept in `release.users`."""
    answers: dict[int, Answer] = {}  # by place in the batch, as all that follows
    wanted: dict[int, Prepared] = {}
    for place, asked in enumerate(batch):
        try:
            one = prepare(release, asked.request, asked.stored, asked.now_ms)
        except ApiError as error:
            answers[place] = error
        else:
            if asked.request.validate_only:
                answers[place] = finish(release, one, None)
            else:
                wanted[place] = one
    scored: dict[int, Scored] = {}
    for wave in one_of_each_user(batch, list(wanted)):
        places = sorted(wave)
        scored |= zip(places, score(release, [batch[p].key for p in places], [wanted[p] for p in places], keeping), strict=True)
    found = search(release, list(wanted.values()), [scored[place] for place in wanted])
    answers |= {place: finish(release, one, mine) for (place, one), mine in zip(wanted.items(), found, strict=True)}
    return [answers[place] for place in range(len(batch))]


def forget_users(release: LoadedRelease, keys: Sequence[Key]) -> list[None]:
    """Drop what the model keeps of these users."""
    for key in keys:
        release.users.drop(key)
    return [None] * len(keys)


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


def score(release: LoadedRelease, keys: Sequence[Key | None], ones: Sequence[Prepared], keeping: Keeping) -> list[Scored]:
    """Query and past items of each request, from what is kept of its user and what is new."""
    kept = [release.users.take(key) if key else None for key in keys]
    keeping.hits += sum(state is not None for state in kept)
    keeping.misses += sum(state is None for state in kept)
    states = [state or UserState(release.towers.config.model, release.no_past_parts) for state in kept]
    scored = score_from(release, states, ones)
    for place, (key, one) in enumerate(zip(keys, ones, strict=True)):
        if kept[place] is not None and random() < keeping.verify_share:  # noqa: S311 - a sample
            states[place], scored[place] = verified(release, states[place], scored[place], one, keeping)
        if key:
            keeping.evictions += release.users.put(key, states[place], keeping.max_bytes)
    return scored


def verified(
    release: LoadedRelease, state: UserState, scored: Scored, one: Prepared, keeping: Keeping
) -> tuple[UserState, Scored]:
    """State and result, compared with those made from scratch, which replace them when they differ."""
    fresh = UserState(release.towers.config.model, release.no_past_parts)
    (again,) = score_from(release, [fresh], [one])
    past = [s.past_scores_M[np.argsort(s.past_rows_M)] for s in (scored, again)]
    error = np.inf
    if np.array_equal(np.sort(scored.past_rows_M), np.sort(again.past_rows_M)):
        error = max(float(np.abs(a - b).max(initial=0)) for a, b in ((scored.query_V, again.query_V), past))
    keeping.verified += 1
    if error <= TOLERANCE:  # and not NaN
        keeping.max_error = max(keeping.max_error, error)
        return state, scored
    keeping.failures += 1
    return fresh, again


def score_from(release: LoadedRelease, states: Sequence[UserState], ones: Sequence[Prepared]) -> list[Scored]:
    """Read what is new of each history, then make the query and score past items; the states are read on."""
    reader, model = release.reader, release.towers.config.model
    read_on(release, states, [one.known for one in ones])
    result = []
    for state, one in zip(states, ones, strict=True):
        know_past_items(release, state, one)
        statistics, parts = state.past.statistics, state.past.parts
        now_Q = np.array([one.now_ms])
        features_M6 = past_features(statistics, one.now_ms)
        activity_6 = activity_features(statistics, np.zeros(len(statistics), np.int64), now_Q)[0]
        last_Q = np.array([one.known[-1].time_ms]) if one.known else now_Q
        times = request_time_features(now_Q, last_Q)[0, : model.request_time_width]
        wanted_D = release.contexts.wanted(one.asked.target_event_type)
        query_X = reader.query(state.memory.last_D, wanted_D, np.concatenate([times, activity_6]), features_M6, parts)
        query_V = reader.vector(query_X)
        past_scores_M = parts.vector_MV @ query_V + reader.repeat_scores(query_X, features_M6, activity_6, parts)
        result.append(Scored(query_V, statistics.item_rows_M, past_scores_M))
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


def know_past_items(release: LoadedRelease, state: UserState, one: Prepared) -> None:
    """Bring the state's past items to those of the request."""
    items = one.history.items
    beyond = state.past.beyond(items)
    if beyond is None:
        state.past, beyond = PastState(release.no_past_parts), list(items)
    added = [i for i in beyond if i in release.rows]
    rows = np.array([release.rows[i] for i in added], np.int64)
    parts = release.reader.past_parts(release.vectors(rows).numpy()) if added else release.no_past_parts
    state.past.update(items, added, rows, parts)


def search(release: LoadedRelease, ones: Sequence[Prepared], scored: Sequence[Scored]) -> list[list[Found]]:
    """What every search of each request finds, best first; equal scores by the lower row.

    Past items get a repeat score that no index knows: they are scored in full, and the index is searched among the others.
    An answer is shorter than asked only when fewer items are allowed.
    """
    found: list[list[Found]] = [[] for _ in ones]
    free = [q for q, one in enumerate(ones) if one.searches[0].allowed_N is None]
    if free:
        queries_QV, without = np.stack([scored[q].query_V for q in free]), [scored[q].past_rows_M for q in free]
        others = release.search_many(queries_QV, max(ones[q].searches[0].k for q in free), without)
        for q, (rows, scores) in zip(free, others, strict=True):
            past = scored[q]
            found[q].append(merged((rows, past.past_rows_M), (scores, past.past_scores_M), ones[q].searches[0].k))
    for q, one in enumerate(ones):
        found[q] += [search_allowed(release, wanted, scored[q]) for wanted in one.searches if wanted.allowed_N is not None]
    return found


def search_allowed(release: LoadedRelease, wanted: Search, past: Scored) -> Found:
    """The best of the allowed items of one request."""
    assert wanted.allowed_N is not None, "without a mask requests are searched together"
    mine_M, others_N = wanted.allowed_N[past.past_rows_M], wanted.allowed_N.copy()
    others_N[past.past_rows_M] = False
    rows, scores = release.search(past.query_V[None], wanted.k, others_N)
    return merged((rows, past.past_rows_M[mine_M]), (scores, past.past_scores_M[mine_M]), wanted.k)
