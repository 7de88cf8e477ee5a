"""Reasons of real answers, against answers to histories in which an item never occurred."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.schemas import Recommended, RecommendRequest
from service.api.scores import ScoreRequest
from service.histories.history import PastItem, StoredEvent, UserHistory
from service.ranking.explain import LEAST_EFFECT, MAX_REASONS, explain, habit, last_rows, without
from service.ranking.probability import log_probabilities
from service.ranking.queries import new_state, queries_from
from service.ranking.score import score_many
from service.ranking.user_request import MAX_LEFT_OUT, ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.settings import Settings
from service.states.cache import UserCache
from tests.service.conftest import DAY_MS, NOW_MS, Client, MemoryHistory, recommend
from twotower.artefacts.item_changes import DeltaStore

Histories = dict[str, UserHistory]


def explained(release: LoadedRelease, history: UserHistory, **fields: Any) -> list[Recommended]:
    return recommend(release, RecommendRequest(explain=True, **fields), history, NOW_MS).items


def stored(item: str, days_ago: int, kind: str = "purchase") -> StoredEvent:
    return StoredEvent(user_id="ann", event_type=kind, time_ms=NOW_MS - days_ago * DAY_MS, item_id=item)


def log_probability(release: LoadedRelease, history: UserHistory, item_id: str) -> float:
    request = ScoreRequest(candidate_item_ids=[item_id])
    (scores,) = score_many(release, [UserRequest(request, history, NOW_MS)], UserCache(0))
    return scores.items[0].log_probability


def test_an_effect_is_what_is_lost_had_the_item_never_been_met(release: LoadedRelease, histories: Histories) -> None:
    num_checked = 0
    for history in list(histories.values())[:6]:
        for item in explained(release, history, num_results=5):
            for reason in item.reasons or []:
                if reason.effect is None:
                    continue
                left = UserHistory().extended(e for e in history.events if e.item_id != reason.item_id)
                lost = log_probability(release, history, item.item_id) - log_probability(release, left, item.item_id)
                assert reason.effect == pytest.approx(lost, abs=1e-3)
                num_checked += 1
    assert num_checked > 10


def from_scratch(release: LoadedRelease, model_input: ModelInput, row: int) -> float:
    """Log-probability of a row, with nothing read before."""
    queries = queries_from(release, [new_state(release)], [model_input])
    return float(log_probabilities(release, queries, np.array([row]))[0, 0])


def test_an_effect_equals_asking_the_model_from_scratch_without_the_item(
    release: LoadedRelease, shop_events: list[StoredEvent], histories: Histories
) -> None:
    """Also for histories longer than the window, of which items before the window are past items too."""
    everybody = UserHistory().extended(sorted(shop_events, key=lambda e: e.time_ms)[:600])
    num_checked = 0
    for history in [everybody, *list(histories.values())[:6]]:
        model_input = read_input(release, UserRequest(RecommendRequest(target_event_type="purchase"), history, NOW_MS))
        rows = last_rows(release, model_input)[:3]
        for row, reasons in zip(rows, explain(release, model_input, rows), strict=True):
            whole = from_scratch(release, model_input, row)
            for reason in reasons:
                lost = whole - from_scratch(release, without(model_input, reason.item_id), row)
                assert reason.effect == pytest.approx(lost, abs=1e-5)
                num_checked += 1
    assert num_checked > 20


def test_a_user_without_an_item_has_neither_its_events_nor_its_statistics(release: LoadedRelease) -> None:
    mine, other = release.item_ids[:2]
    history = UserHistory().extended([stored(mine, 9), stored(other, 8), stored(mine, 7), stored("gone", 6)])
    model_input = read_input(release, UserRequest(RecommendRequest(), history, NOW_MS))
    left = without(model_input, mine)
    assert [event.item_id for event in left.known_events] == [other]
    assert list(left.history.items) == [other, "gone"]
    assert [event.item_id for event in model_input.known_events] == [mine, other, mine]


def test_the_items_of_the_last_events_are_left_out_each_once_the_latest_first(release: LoadedRelease) -> None:
    ids = release.item_ids
    history = UserHistory().extended([stored(i, 9) for i in (*ids[:20], "gone", ids[18], ids[3])])
    model_input = read_input(release, UserRequest(RecommendRequest(), history, NOW_MS))
    expected = [3, 18, 19, 17, *range(16, 3, -1), 2, 1, 0]
    assert last_rows(release, model_input) == expected[:MAX_LEFT_OUT]


def test_reasons_change_nothing_but_themselves(release: LoadedRelease, histories: Histories) -> None:
    history = next(iter(histories.values()))
    plain = recommend(release, RecommendRequest(), history, NOW_MS).items
    assert [(i.item_id, i.score) for i in explained(release, history)] == [(i.item_id, i.score) for i in plain]
    assert all(i.reasons is None for i in plain)


def test_past_items_are_named_by_title_and_day_the_strongest_first(release: LoadedRelease, histories: Histories) -> None:
    titles = dict(zip(release.item_ids, release.items.column("title").to_pylist(), strict=True))
    num_others = 0
    for history in list(histories.values())[:6]:
        last = list(dict.fromkeys(e.item_id for e in reversed(history.window) if e.item_id))[:MAX_LEFT_OUT]
        for item in explained(release, history):
            others = [r for r in item.reasons or [] if r.item_id != item.item_id]
            assert len(others) <= MAX_REASONS
            assert all(r.item_id in last and r.text.startswith(f"because of {titles[r.item_id] or r.item_id} (") for r in others)
            effects = [r.effect or 0 for r in others]
            assert effects == sorted(effects, reverse=True)
            assert all(effect >= LEAST_EFFECT for effect in effects)
            num_others += len(others)
    assert num_others


def test_a_past_item_is_its_own_first_reason(release: LoadedRelease) -> None:
    mine = release.item_ids[5]
    history = UserHistory().extended(
        [stored(mine, 40), stored(mine, 26, "view"), stored(mine, 12), stored(release.item_ids[6], 3)]
    )
    (item,) = explained(release, history, candidate_item_ids=[mine])
    assert item.reasons
    first = item.reasons[0]
    assert (first.item_id, first.text, first.last) == (mine, "purchase, view: 3 times, last 12 days ago", NOW_MS - 12 * DAY_MS)
    assert first.effect is not None


def test_a_past_item_of_long_ago_has_a_reason_without_an_effect(release: LoadedRelease) -> None:
    mine, *later = release.item_ids[: MAX_LEFT_OUT + 1]
    history = UserHistory().extended([stored(mine, 90), *(stored(i, 10) for i in later)])
    (item,) = explained(release, history, candidate_item_ids=[mine])
    assert item.reasons
    assert (item.reasons[0].text, item.reasons[0].effect) == ("purchase: once 90 days ago", None)


@pytest.mark.parametrize(
    ("count", "hours", "text"),
    [
        (1, 0, "once today"),
        (2, 23, "2 times, last today"),
        (1, 25, "once a day ago"),
        (9, -5, "9 times, last today"),
    ],
)
def test_a_habit_is_told_in_words(count: int, hours: int, text: str) -> None:
    last_ms = NOW_MS - hours * 3_600_000
    assert habit(PastItem(count, 0, last_ms, (1.0, 1.0, 1.0), frozenset(["view"])), NOW_MS) == f"view: {text}"


def test_without_a_history_or_items_there_are_no_reasons(release: LoadedRelease, histories: Histories) -> None:
    assert [item.reasons for item in explained(release, UserHistory())] == [[]] * 10
    assert explained(release, next(iter(histories.values())), candidate_item_ids=[]) == []


def test_reasons_over_http_are_for_a_few_items(client: Client) -> None:
    events = [{"item_id": "item-3", "event_type": "purchase", "timestamp": NOW_MS - DAY_MS}]
    body = {"events": events, "explain": True, "timestamp": NOW_MS, "candidate_item_ids": ["item-3"]}
    (item,) = client.recommend(**body)["items"]
    assert set(item["reasons"][0]) == {"text", "item_id", "last", "effect"}
    refused = client.post("/v1/recommend", body | {"num_results": 21})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "explain")


def test_an_item_put_since_the_release_was_built_is_a_reason_and_can_be_promoted(
    settings: Settings, release: LoadedRelease, tmp_path: Path
) -> None:
    events = [{"item_id": i, "event_type": "purchase", "timestamp": NOW_MS - DAY_MS} for i in ("new", "item-3")]
    promotion = {"name": "ours", "filter": "title == 'blue olives'", "position": 4}
    body = {"events": events, "explain": True, "timestamp": NOW_MS, "promotions": [promotion], "diversity": 0.2}
    with Client(settings, release, MemoryHistory(), DeltaStore(tmp_path / "delta.db")) as client:
        client.put_items({"item_id": "new", "title": "blue olives"})
        client.delete_items("item-5")
        first = client.recommend(**body)
        second = client.recommend(**body, page_token=first["next_page_token"])
        assert (first["items"][3]["item_id"], first["items"][3]["promotion"]) == ("new", "ours")
        assert first["items"][3]["reasons"][0]["text"] == "purchase: once a day ago"
        assert len({item["item_id"] for item in first["items"] + second["items"]} - {"item-5"}) == 20
        client.delete_items(first["items"][0]["item_id"])
        assert len(client.recommend(**body, page_token=first["next_page_token"])["items"]) == 10
        client.put_items({"item_id": "new", "title": "blue olives"}, {"item_id": "newer"})
        assert len(client.recommend(**body, page_token=first["next_page_token"])["items"]) == 10
        client.delete_items("new")
        expired = client.post("/v1/recommend", body | {"page_token": first["next_page_token"]})
        assert (expired.status_code, expired.json()["error"]["code"]) == (422, "page_expired")
