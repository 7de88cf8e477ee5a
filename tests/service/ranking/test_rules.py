"""The request path on the tiny shop's real histories, against scores computed for the whole catalogue."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving_rivals.offline import offline_request, offline_scores
from service.api.errors import ApiError
from service.api.schemas import Event, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.histories.intake import merge_inline
from service.ranking.rules import Ranking
from service.release.filters import Mask
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, recommend
from twotower.data.features import Floats

Histories = dict[str, UserHistory]


def ask(release: LoadedRelease, history: UserHistory, **fields: Any) -> Ranking:
    return recommend(release, RecommendRequest(**fields), history, NOW_MS)


def ids(ranking: Ranking) -> list[str]:
    return [i.item_id for i in ranking.items]


def all_scores(release: LoadedRelease, history: UserHistory) -> Floats:
    """score(u, j) of every item, by one product with the whole catalogue."""
    return offline_scores(release, offline_request(release, history, NOW_MS))


def seen(release: LoadedRelease, history: UserHistory) -> Mask:
    return np.array([i in history.items for i in release.item_ids])


def test_search_and_past_items_together_are_the_exact_top_k(release: LoadedRelease, histories: Histories) -> None:
    for history in [UserHistory(), *list(histories.values())[:16]]:
        scores_N = all_scores(release, history)
        order = np.argsort(-scores_N, kind="stable")
        ranking = ask(release, history, num_results=50)
        np.testing.assert_allclose([i.score for i in ranking.items], scores_N[order[:50]], atol=1e-4)
        assert ids(ranking) == [release.item_ids[r] for r in order[:50]]


def test_filters_and_exclusions_give_the_exact_top_k_of_what_is_left(release: LoadedRelease, histories: Histories) -> None:
    expression = "price < 3 and department != 'aisle 1'"
    excluded = release.item_ids[::3]
    for history in list(histories.values())[:6]:
        allowed = release.filters.mask(expression) & ~np.isin(release.item_ids, excluded) & ~seen(release, history)
        scores_N = np.where(allowed, all_scores(release, history), -np.inf)
        order = np.argsort(-scores_N, kind="stable")[: min(20, allowed.sum())]
        ranking = ask(release, history, num_results=20, filter=expression, exclude_item_ids=excluded, exclude_seen=True)
        assert ids(ranking) == [release.item_ids[r] for r in order]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    user=st.integers(0, 59),
    num_results=st.integers(1, 500),
    price=st.floats(0, 6),
    excluded=st.lists(st.integers(0, 399), max_size=200),
    candidates=st.none() | st.lists(st.integers(0, 399), max_size=200),
    exclude_seen=st.booleans(),
    exclude_types=st.lists(st.sampled_from(["view", "purchase"]), max_size=2),
)
def test_the_answer_is_never_short_while_items_remain(
    release: LoadedRelease,
    histories: Histories,
    user: int,
    num_results: int,
    price: float,
    excluded: list[int],
    candidates: list[int] | None,
    exclude_seen: bool,
    exclude_types: list[str],
) -> None:
    history = list(histories.values())[user % len(histories)]
    left = {i for i, cheap in zip(release.item_ids, release.filters.mask(f"price < {price}"), strict=True) if cheap}
    left -= {release.item_ids[r] for r in excluded}
    left &= left if candidates is None else {release.item_ids[r] for r in candidates}
    left -= {i for i, past in history.items.items() if exclude_seen or past.event_types & set(exclude_types)}
    ranking = ask(
        release,
        history,
        num_results=num_results,
        filter=f"price < {price}",
        exclude_item_ids=[release.item_ids[r] for r in excluded],
        candidate_item_ids=None if candidates is None else [release.item_ids[r] for r in candidates],
        exclude_seen=exclude_seen,
        exclude_event_types=exclude_types,
    )
    assert len(set(ids(ranking))) == len(ranking.items) == min(num_results, len(left))
    assert set(ids(ranking)) <= left
    assert [i.score for i in ranking.items] == sorted((i.score for i in ranking.items), reverse=True)


def test_seen_items_come_back_unless_excluded(release: LoadedRelease, histories: Histories) -> None:
    some = list(histories.values())[:12]
    default = [bool(set(ids(ask(release, h))) & set(h.items)) for h in some]
    excluded = [bool(set(ids(ask(release, h, exclude_seen=True))) & set(h.items)) for h in some]
    assert any(default)
    assert not any(excluded)


def test_items_seen_long_before_the_window_are_excluded_too(release: LoadedRelease) -> None:
    first, last = release.item_ids[0], release.item_ids[1]
    events = [stored(first, 0), *(stored(last, i) for i in range(1, 400))]
    history = UserHistory().extended(events)
    assert first not in {e.item_id for e in history.window}
    answer_ids = ids(ask(release, history, num_results=500, exclude_seen=True))
    assert set(release.item_ids) - set(answer_ids) == {first, last}


def test_excluding_one_event_type_leaves_items_seen_otherwise(release: LoadedRelease) -> None:
    viewed, bought = release.item_ids[:2]
    history = UserHistory().extended([stored(viewed, 1, "view"), stored(bought, 2, "purchase"), stored(bought, 3, "view")])
    answer_ids = ids(ask(release, history, num_results=500, exclude_event_types=["purchase"]))
    assert set(release.item_ids) - set(answer_ids) == {bought}


def stored(item: str, day: int, kind: str = "view", **properties: Any) -> StoredEvent:
    return StoredEvent(
        user_id="ann", event_type=kind, time_ms=NOW_MS - (500 - day) * 86_400_000, item_id=item, properties=properties
    )


def inline(item: str, **fields: Any) -> Event:
    return Event(event_type="view", timestamp=NOW_MS - 1000, item_id=item, **fields)


def test_a_cold_user_gets_the_answer_to_an_empty_history(release: LoadedRelease) -> None:
    ranking = ask(release, UserHistory())
    order = np.argsort(-all_scores(release, UserHistory()), kind="stable")
    assert ids(ranking) == [release.item_ids[r] for r in order[:10]]
    assert (ranking.events_used, ranking.events_ignored, ranking.degraded) == (0, 0, [])


def test_inline_events_count_as_if_they_had_been_stored(release: LoadedRelease) -> None:
    before = UserHistory().extended(stored(i, d) for d, i in enumerate(release.item_ids[:300]))
    events = [inline(i) for i in release.item_ids[5:8]]
    as_inline = ask(release, before, events=events)
    as_stored = ask(release, before.extended(merge_inline(UserHistory(), RecommendRequest(events=events)).history.events))
    assert as_inline == as_stored
    assert as_inline.events_used == 303 - 64  # the anchor of 303 events is 64


def test_replace_forgets_the_stored_history(release: LoadedRelease, histories: Histories) -> None:
    history = next(iter(histories.values()))
    events = [inline(release.item_ids[0])]
    replaced, fresh = ask(release, history, events=events, history_mode="replace"), ask(release, UserHistory(), events=events)
    assert (replaced.items, replaced.events_used) == (fresh.items, fresh.events_used)


def test_unknown_items_are_skipped_counted_and_named_once(release: LoadedRelease) -> None:
    events = [inline("gone"), inline(release.item_ids[0]), inline("gone"), Event(event_type="search", timestamp=NOW_MS)]
    ranking = ask(release, UserHistory(), events=events, candidate_item_ids=["lost", release.item_ids[3]])
    assert (ranking.events_used, ranking.events_ignored) == (1, 3)
    assert ranking.missing_item_ids == ["gone", "lost"]
    assert ids(ranking) == [release.item_ids[3]]


def test_a_history_of_unknown_items_alone_is_a_cold_user(release: LoadedRelease) -> None:
    assert ids(ask(release, UserHistory(), events=[inline("gone")])) == ids(ask(release, UserHistory()))


def test_a_filter_that_matches_nothing_gives_an_empty_answer_that_says_so(release: LoadedRelease) -> None:
    ranking = ask(release, UserHistory(), filter="price < 0")
    assert (ranking.items, ranking.degraded) == ([], ["filter_matches_nothing"])


def test_no_candidates_means_no_items(release: LoadedRelease) -> None:
    assert ask(release, UserHistory(), candidate_item_ids=[]).items == []


def test_event_properties_the_schema_names_change_the_answer_and_others_do_not(release: LoadedRelease) -> None:
    def first_score(**properties: Any) -> float:
        history = UserHistory().extended([stored(release.item_ids[0], 1, **properties)])
        return ask(release, history).items[0].score

    assert first_score(price_paid=1.0) != first_score(price_paid=9.0)
    assert first_score(channel="web") != first_score(channel="store")
    assert first_score(colour="red") == first_score()
    assert first_score(price_paid="much", channel=None) == first_score()  # what cannot be read is missing


def test_the_wanted_event_type_changes_the_scores(release: LoadedRelease) -> None:
    plain, wanted = ask(release, UserHistory()), ask(release, UserHistory(), target_event_type="purchase")
    assert plain.items[0].score != wanted.items[0].score


def test_metadata_is_what_the_catalogue_says_missing_values_included(release: LoadedRelease) -> None:
    ranking = ask(release, UserHistory(), num_results=400, include_metadata=["title", "price"])
    table = {row["item_id"]: row for row in release.items.to_pylist()}
    assert all(i.metadata == {n: table[i.item_id][n] for n in ("title", "price")} for i in ranking.items)
    assert any(i.metadata and i.metadata["price"] is None for i in ranking.items)


@pytest.mark.parametrize(
    ("field", "value"), [("include_metadata", ["titel"]), ("filter", "titel == 'x'"), ("filter", "price < ")]
)
def test_what_items_do_not_have_is_refused_by_field_with_what_they_have(release: LoadedRelease, field: str, value: Any) -> None:
    with pytest.raises(ApiError, match="department") as refused:
        ask(release, UserHistory(), **{field: value})
    assert (refused.value.status, refused.value.field) == (422, field)


def test_validate_only_checks_without_answering(release: LoadedRelease) -> None:
    assert ask(release, UserHistory(), validate_only=True).items == []
    with pytest.raises(ApiError):
        ask(release, UserHistory(), validate_only=True, filter="nonsense")
