"""Row 25: a thousand requests for one user read that user's history once."""

import asyncio
from collections.abc import Callable, Sequence

import httpx
import pytest

from service.histories.history import UserHistory
from service.model.incremental import Incremental
from tests.service.conftest import Client, MemoryHistory


def test_a_herd_of_requests_for_one_user_reads_the_history_once(
    connect: Callable[..., Client], histories: dict[str, UserHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, history = next(iter(histories.items()))
    store, read = MemoryHistory(), Incremental.read
    num_read: list[int] = []
    store.users[user] = history

    def counted(self: Incremental, memories: object, counts: Sequence[int], events: object) -> None:
        num_read.extend(counts)
        read(self, memories, counts, events)  # type: ignore[arg-type]

    monkeypatch.setattr(Incremental, "read", counted)
    client = connect(store, max_wait_s=600.0, request_timeout_s=600.0, max_queued=2000, verify_share=0.0)
    num_read.clear()  # of the warm-up

    async def ask_all() -> list[httpx.Response]:
        calls = [client.http.post("/v1/recommend", json={"user_id": user}) for _ in range(1000)]
        return await asyncio.gather(*calls)

    responses = client.run(ask_all())
    assert {r.status_code for r in responses} == {200}, next(r.text for r in responses if r.status_code != 200)
    assert sum(num_read) == len(history.window)
