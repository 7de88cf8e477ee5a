"""Row 16: an exception in one batch is the culprit's alone."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from service.api.schemas import RecommendRequest
from service.ranking import recommend
from service.ranking.rules import Prepared, prepare
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from tests.service.conftest import Client


def test_one_request_that_breaks_the_engine_fails_alone(connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(release: LoadedRelease, user_request: UserRequest[RecommendRequest]) -> Prepared:
        if user_request.request.user_id == "poison":
            raise ZeroDivisionError("poisoned")
        return prepare(release, user_request)

    monkeypatch.setattr(recommend, "prepare", breaks)
    client = connect()
    http = httpx.AsyncClient(transport=httpx.ASGITransport(client.app.asgi, raise_app_exceptions=False), base_url="http://shop")

    async def ask(user: str) -> httpx.Response:
        return await http.post("/v1/recommend", json={"user_id": user})

    async def ask_all() -> list[httpx.Response]:
        users = [f"user {n}" for n in range(15)]
        return await asyncio.gather(*map(ask, [*users[:7], "poison", *users[7:]]))

    responses = client.run(ask_all())
    assert [r.status_code for r in responses] == [200] * 7 + [500] + [200] * 8
    assert "poisoned" not in responses[7].text
