import asyncio
import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.batches import MAX_BATCH
from service.api.errors import ApiError, ErrorBody
from service.api.schemas import RecommendRequest, RecommendResponse
from service.routes.batch import answer_each
from tests.service.conftest import NOW_MS, Client

ANSWER = RecommendResponse(
    recommendation_id="r",
    items=[],
    release="release-1",
    events_used=0,
    events_ignored=0,
    missing_item_ids=[],
    history_seq=None,
    degraded=[],
    took_ms=1.0,
)


def batch(client: Client, *requests: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/recommend/batch", {"requests": requests})
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def test_each_request_is_answered_as_if_it_had_come_alone(client: Client) -> None:
    event = {"item_id": "item-3", "event_type": "view", "timestamp": NOW_MS - 1000}
    requests: list[dict[str, Any]] = [{"num_results": 3}, {"events": [event]}, {"filter": "price < 2", "diversity": 0.5}]
    requests = [request | {"timestamp": NOW_MS} for request in requests]
    alone = [client.recommend(**request) for request in requests]
    together = batch(client, *requests)
    assert [set(answer) for answer in together] == [set(answer) for answer in alone]
    assert [answer["items"] for answer in together] == [answer["items"] for answer in alone]
    assert len({answer["recommendation_id"] for answer in together}) == 3


def test_a_request_that_is_refused_leaves_the_others_alone(client: Client) -> None:
    results = batch(
        client, {"num_results": 2}, {"num_results": 0}, 7, {"filter": "titel < 2"}, {"diversty": 1}, {"num_results": 2}
    )
    assert [list(r) == ["error"] for r in results] == [False, True, True, True, True, False]
    assert [r["error"]["code"] for r in results[1:5]] == ["invalid_request"] * 4
    assert [r["error"].get("field") for r in results[1:5]] == ["num_results", None, "filter", "diversty"]
    assert all(r["error"]["request_id"] for r in results[1:5])


@pytest.mark.parametrize("body", [{}, {"requests": {}}, {"requests": [{}] * (MAX_BATCH + 1)}, {"requests": [], "x": 1}, []])
def test_a_body_that_is_no_batch_is_refused_as_a_whole(client: Client, body: Any) -> None:
    assert client.post("/v1/recommend/batch", body).status_code == 422


def test_a_full_batch_is_answered_and_an_empty_one_too(client: Client) -> None:
    assert len(batch(client, *[{"num_results": 1}] * MAX_BATCH)) == MAX_BATCH
    assert batch(client) == []


def test_all_requests_wait_for_the_engine_at_the_same_time() -> None:
    async def both() -> list[RecommendResponse | ErrorBody]:
        meeting = asyncio.Barrier(3)

        async def answer(_: RecommendRequest) -> RecommendResponse:
            async with asyncio.timeout(5):
                await meeting.wait()  # opens for three that wait together
            return ANSWER

        return await answer_each([msgspec.Raw(b"{}")] * 3, answer, "id")

    assert asyncio.run(both()) == [ANSWER] * 3


def test_what_nobody_foresaw_fails_alone_and_keeps_its_text_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(asked: RecommendRequest) -> RecommendResponse:
        if asked.num_results == 1:
            raise RuntimeError("a secret of ours")
        if asked.num_results == 2:
            raise ApiError("overloaded", "try again shortly")
        return ANSWER

    bodies = [msgspec.Raw(b'{"num_results": %d}' % n) for n in (1, 2, 3)]
    with caplog.at_level(logging.ERROR):
        broken, busy, good = asyncio.run(answer_each(bodies, answer, "id-7"))
    assert isinstance(broken, ErrorBody)
    assert isinstance(busy, ErrorBody)
    assert (broken.error.code, broken.error.request_id, busy.error.code, good) == ("internal", "id-7", "overloaded", ANSWER)
    assert "secret" not in broken.error.message
    assert "a secret of ours" in caplog.text
    assert "id-7" in caplog.text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just({}), st.just({"filter": "("})), max_size=5)
)
def test_every_request_has_its_own_result(shared_client: Client, requests: list[Any]) -> None:
    results = batch(shared_client, *requests)
    assert ["error" in result for result in results] == [request != {} for request in requests]
