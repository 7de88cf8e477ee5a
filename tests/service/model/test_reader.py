"""The contract of both readers: whatever was read before and in whatever parts, answers are those of the whole history."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.serving_rivals.offline import offline_queries, offline_request
from service.api.schemas import RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.model.reader import UserQuery
from service.ranking.explain import without
from service.ranking.queries import new_state, queries_from
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.states.user_state import UserState
from tests.service.conftest import NOW_MS, with_searches
from tests.service.placed import on_tensors, with_numpy, without_past_attention_and_clock

TOLERANCE = 2e-5


READERS = ("cpu", "numpy", "device")


@pytest.fixture(scope="module", params=[*READERS, *(f"{reader}, as for leave-one-out" for reader in READERS)])
def served(request: pytest.FixtureRequest, release: LoadedRelease) -> LoadedRelease:
    device, _, kind = request.param.partition(", ")
    of_a_kind = without_past_attention_and_clock(release) if kind else release
    if device == "numpy":
        return with_numpy(of_a_kind)
    return of_a_kind if device == "cpu" else on_tensors(of_a_kind)


@pytest.fixture(scope="module")
def events(shop_events: list[StoredEvent]) -> list[StoredEvent]:
    """One long history, of all users' events, and of searches."""
    return with_searches(sorted(shop_events, key=lambda e: e.time_ms)[:300])


def input_of(release: LoadedRelease, events: Sequence[StoredEvent], wanted: str | None = None) -> ModelInput:
    request = RecommendRequest(user_id="ann", target_event_type=wanted)
    return read_input(release, UserRequest(request, UserHistory().extended(events), NOW_MS))


def ask(release: LoadedRelease, state: UserState, model_input: ModelInput) -> UserQuery:
    (query,) = queries_from(release, [state], [model_input])
    return query


def check(release: LoadedRelease, query: UserQuery, model_input: ModelInput) -> None:
    """The query is the one that the offline evaluation makes of the whole history."""
    request = offline_request(release, model_input.history, model_input.now_ms, model_input.target_event_type)
    expected = offline_queries(release, request)
    np.testing.assert_allclose(query.query_V, expected.vectors_QV[0], atol=TOLERANCE)
    scores = dict(zip(query.past_rows_M.tolist(), query.past_scores_M.tolist(), strict=True))
    wanted = dict(zip(expected.past_rows_M.tolist(), expected.past_scores(release.vectors_NV).tolist(), strict=True))
    assert scores == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("wanted", [None, "purchase"])
@pytest.mark.parametrize("length", [0, 1, 2, 40, 256, 300])
def test_a_cold_history_gets_the_query_of_the_model(
    served: LoadedRelease, events: list[StoredEvent], length: int, wanted: str | None
) -> None:
    model_input = input_of(served, events[:length], wanted)
    check(served, ask(served, new_state(served), model_input), model_input)


@pytest.mark.parametrize("stops", [range(1, 70), (64, 128, 129), (200, 201, 202, 205, 256, 300), (0, 5, 5, 6)])
def test_a_history_that_grows_is_read_on(served: LoadedRelease, events: list[StoredEvent], stops: Sequence[int]) -> None:
    state = new_state(served)
    for stop in stops:
        model_input = input_of(served, events[:stop])
        query = ask(served, state, model_input)
        if stop == stops[-1] or stop in (64, 65):
            check(served, query, model_input)


def test_only_what_is_new_is_read(served: LoadedRelease, events: list[StoredEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a memory that begins as the history does; the last event may be read again."""
    state = new_state(served)
    ask(served, state, input_of(served, events[:100]))
    read = served.reader
    contexts = read._contexts  # type: ignore[attr-defined]
    of: Callable[[Sequence[StoredEvent]], object] = contexts.of
    seen: list[int] = []

    def counted(new: Sequence[StoredEvent]) -> object:
        seen.append(len(new))
        return of(new)

    monkeypatch.setattr(contexts, "of", counted)
    for stop, most in ((101, 1), (104, 3), (104, 1), (90, 1)):
        seen.clear()
        ask(served, state, input_of(served, events[:stop]))
        assert sum(seen) <= most


def test_requests_of_a_batch_do_not_touch_each_other(served: LoadedRelease, events: list[StoredEvent]) -> None:
    spans = [(0, 0), (0, 1), (3, 100), (10, 11), (20, 276), (7, 8), (50, 90)]
    states = [new_state(served) for _ in spans]
    for extra in (0, 1, 1, 3):
        spans = [(start, stop + extra * (start % 2)) for start, stop in spans]
        inputs = [input_of(served, events[start:stop]) for start, stop in spans]
        for query, model_input in zip(queries_from(served, states, inputs), inputs, strict=True):
            check(served, query, model_input)


def test_a_history_that_turns_out_otherwise_is_read_from_there(served: LoadedRelease, events: list[StoredEvent]) -> None:
    state = new_state(served)
    for known in (events[:100], [*events[:90], events[200]], events[:30], [*events[:64], *events[70:80]], events[1:50]):
        model_input = input_of(served, known)
        check(served, ask(served, state, model_input), model_input)


def test_a_copy_is_read_on_without_changing_what_it_is_of(served: LoadedRelease, events: list[StoredEvent]) -> None:
    state, whole = new_state(served), input_of(served, events[:200])
    ask(served, state, whole)
    for event in (events[150], events[199], events[3]):
        assert event.item_id is not None
        shorter = without(whole, event.item_id)
        copy = state.without(event.item_id, served.rows[event.item_id])
        query = ask(served, copy, shorter)
        np.testing.assert_allclose(query.query_V, ask(served, new_state(served), shorter).query_V, atol=TOLERANCE)
        check(served, ask(served, state, whole), whole)
    longer = input_of(served, events[:202])
    check(served, ask(served, state, longer), longer)


def test_other_items_that_a_reader_has_searched_for_are_the_best(served: LoadedRelease, events: list[StoredEvent]) -> None:
    inputs = [input_of(served, events[start:stop]) for start, stop in pairwise((0, 0, 5, 80, 90))]
    queries = queries_from(served, [new_state(served) for _ in inputs], inputs, [3, 20, 0, 7])
    for query, num in zip(queries, [3, 20, 0, 7], strict=True):
        if query.others is not None:
            rows, scores = served.search_many(query.query_V[None], max(num, 1), [query.past_rows_M])[0]
            assert num
            assert query.others[0].tolist() == rows.tolist()
            np.testing.assert_allclose(query.others[1], scores, rtol=0, atol=1e-6)


def test_the_reader_of_a_device_searches_unless_items_have_changed(release: LoadedRelease, events: list[StoredEvent]) -> None:
    served, model_input = on_tensors(release), input_of(release, events[:6])
    (query,) = queries_from(served, [new_state(served)], [model_input], [4])
    assert query.others is not None
    assert len(query.others[0]) == 4
    (query,) = queries_from(served, [new_state(served)], [input_of(release, events[:5])], [4])
    assert query.others is None, "the last event is a search, and its part of the query is added here"
    (query,) = queries_from(release, [new_state(release)], [model_input], [4])
    assert query.others is None
    assert dataclasses.replace(served).device_model is served.device_model
