"""Pages of real answers, put together and compared with one large one."""

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.errors import ApiError
from service.api.schemas import Event, Promotion, RecommendRequest
from service.histories.history import UserHistory
from service.ranking.pages import Page, open_page, page_token
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, Client, recommend

Histories = dict[str, UserHistory]
CHEAP = Promotion(name="cheap", filter="price < 1", percent=25)
FIRST = Promotion(name="first", filter="department == 'aisle 1'", position=3)
LATER = Promotion(name="later", filter="department == 'aisle 2'", position=14)


def pages(release: LoadedRelease, history: UserHistory, sizes: list[int], **fields: Any) -> list[Ranking]:
    """Page after page, each a minute later, until there are no more or the sizes end."""
    token, answers = None, []
    for minutes, size in enumerate(sizes):
        asked = RecommendRequest(num_results=size, page_token=token, **fields)
        answers.append(recommend(release, asked, history, NOW_MS + 60_000 * minutes))
        token = answers[-1].next_page_token
        if token is None:
            break
    return answers


def ids(*answers: Ranking) -> list[str]:
    return [item.item_id for answer in answers for item in answer.items]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    user=st.integers(0, 59),
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    promotions=st.lists(st.sampled_from([CHEAP, FIRST, LATER]), unique_by=lambda p: p.name),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
    price=st.sampled_from([0.5, 2.0, 100.0]),
)
def test_pages_together_are_one_large_answer(
    release: LoadedRelease,
    histories: Histories,
    user: int,
    sizes: list[int],
    promotions: list[Promotion],
    diversity: float,
    price: float,
) -> None:
    history = list(histories.values())[user % len(histories)]
    fields: dict[str, Any] = {
        "promotions": promotions,
        "diversity": diversity,
        "filter": f"price < {price}",
        "exclude_seen": True,
    }
    answers = pages(release, history, sizes, **fields)
    whole = recommend(release, RecommendRequest(num_results=sum(sizes), **fields), history, NOW_MS)
    assert [item for answer in answers for item in answer.items] == whole.items
    assert len(set(ids(whole))) == len(whole.items)
    assert not set(ids(whole)) & set(history.items)
    assert set(ids(whole)) <= {release.item_ids[row] for row in release.filters.mask(f"price < {price}").nonzero()[0]}
    assert (answers[-1].next_page_token is None) == (whole.next_page_token is None)


def test_nothing_comes_twice_though_the_user_did_something_in_between(release: LoadedRelease, histories: Histories) -> None:
    for history in list(histories.values())[:6]:
        first = recommend(release, RecommendRequest(), history, NOW_MS)
        clicks = [Event(event_type="view", timestamp=NOW_MS, item_id=i) for i in ids(first)[-2:]]
        asked = RecommendRequest(events=clicks, page_token=first.next_page_token)
        second = recommend(release, asked, history, NOW_MS + 5000)
        assert len(set(ids(first, second))) == 20


def test_the_last_page_has_no_token_and_none_is_missing(release: LoadedRelease) -> None:
    answers = pages(release, UserHistory(), [150, 150, 150])
    assert [len(answer.items) for answer in answers] == [150, 150, 100]
    assert set(ids(*answers)) == set(release.item_ids)
    assert answers[-1].next_page_token is None
    assert pages(release, UserHistory(), [400])[0].next_page_token is None
    assert pages(release, UserHistory(), [399])[0].next_page_token is not None


def test_validate_only_gives_no_token(release: LoadedRelease) -> None:
    assert recommend(release, RecommendRequest(validate_only=True), UserHistory(), NOW_MS).next_page_token is None


@pytest.mark.parametrize("same", [{"num_results": 20}, {"timeout_ms": 50}, {"events": [Event(event_type="a", timestamp=NOW_MS)]}])
def test_what_may_change_between_pages_does_not_end_them(release: LoadedRelease, same: dict[str, Any]) -> None:
    token = page_token(release, RecommendRequest(user_id="ann"), NOW_MS, (1, 2))
    assert open_page(release, RecommendRequest(user_id="ann", page_token=token, **same), 0) == Page((1, 2), NOW_MS)


@pytest.mark.parametrize("other", [{"user_id": "bob"}, {"filter": "price < 2"}, {"diversity": 0.5}, {"promotions": [FIRST]}])
def test_a_token_of_another_request_is_refused(release: LoadedRelease, other: dict[str, Any]) -> None:
    token = page_token(release, RecommendRequest(), NOW_MS, (1,))
    with pytest.raises(ApiError, match="another request") as refused:
        open_page(release, RecommendRequest(page_token=token, **other), NOW_MS)
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, "invalid_request", "page_token")


def repack(token: str, place: int, value: Any) -> str:
    fields = msgspec.msgpack.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    fields[place] = value
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(fields)).decode().rstrip("=")


@pytest.mark.parametrize(("place", "value"), [(1, 7), (3, [1, 3]), (3, [400]), (4, 7)])
def test_pages_end_with_the_catalogue_they_began_with(release: LoadedRelease, place: int, value: Any) -> None:
    token = repack(page_token(release, RecommendRequest(), NOW_MS, (1, 2)), place, value)
    with pytest.raises(ApiError, match="ask again without page_token") as refused:
        open_page(release, RecommendRequest(page_token=token), NOW_MS)
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, "page_expired", "page_token")


@pytest.mark.parametrize(("place", "value"), [(3, []), (3, [-1]), (3, [1] * 501), (2, 10**15), (2, "x"), (0, None)])
def test_a_token_nobody_gave_is_refused(release: LoadedRelease, place: int, value: Any) -> None:
    token = repack(page_token(release, RecommendRequest(), NOW_MS, (1, 2)), place, value)
    with pytest.raises(ApiError, match="not a `next_page_token`"):
        open_page(release, RecommendRequest(page_token=token), NOW_MS)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(token=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_any_text_as_a_token_is_refused_and_breaks_nothing(release: LoadedRelease, token: str) -> None:
    with pytest.raises(ApiError):
        open_page(release, RecommendRequest(page_token=token), NOW_MS)


def test_pages_over_http(client: Client) -> None:
    first = client.recommend(user_id="ann")
    client.post("/v1/events", {"events": [{"user_id": "ann", "item_id": "item-3", "event_type": "view", "timestamp": NOW_MS}]})
    second = client.recommend(user_id="ann", page_token=first["next_page_token"])
    assert len({item["item_id"] for item in first["items"] + second["items"]}) == 20
    refused = client.post("/v1/recommend", {"user_id": "bob", "page_token": first["next_page_token"]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "page_token")
