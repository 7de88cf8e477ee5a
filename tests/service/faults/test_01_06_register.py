"""Beside rows 1 to 6: every history behaves as one register that all servers share, whatever happens to connections."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.histories.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.remembered import RememberedHistories
from service.histories.sqlite_history import SqliteHistory
from tests.service.faults.proxy import FaultProxy

USERS = ("ann", "bob", "cid")
EVENTS_EACH = 60
READS_EACH = 150


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.faults)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[HistoryStore], list[FaultProxy]]]:
    """What two servers use, and what may be done to their connections."""
    if request.param == "sqlite":
        yield [SqliteHistory(tmp_path / "history.db") for _ in range(2)], []
    else:
        proxies = [FaultProxy(request.getfixturevalue("redis")) for _ in range(2)]
        yield [RedisHistory(proxy.url, 0.5, 1.0) for proxy in proxies], proxies


def test_a_read_knows_every_event_acknowledged_before_it_began(
    stores: tuple[list[HistoryStore], list[FaultProxy]],
) -> None:
    asyncio.run(asyncio.wait_for(check(*stores), 60))


async def check(stores: list[HistoryStore], proxies: list[FaultProxy]) -> None:
    servers = [RememberedHistories(store, 10**8, lambda: None) for store in stores]
    for server, store in zip(servers, stores, strict=True):
        if isinstance(store, SqliteHistory):
            server.follow(store)
    for proxy in proxies:
        await proxy.__aenter__()
    disturbing = asyncio.create_task(disturb(proxies))
    acknowledged, seen = dict.fromkeys(USERS, 0), dict.fromkeys(USERS, 0)
    reads: dict[str, list[UserHistory]] = {user: [] for user in USERS}

    async def write(user: str, draw: random.Random) -> None:
        """In order, each again under its event_id until a server acknowledges it."""
        for number in range(EVENTS_EACH):
            event = StoredEvent(user_id=user, event_type="view", time_ms=number, item_id=f"i{number % 9}", event_id=str(number))
            while True:
                try:
                    await draw.choice(servers).append([event])
                    break
                except HistoryUnavailable:
                    await asyncio.sleep(0.01)
            acknowledged[user] = number + 1
            await asyncio.sleep(draw.random() * 0.004)

    async def read(user: str, server: RememberedHistories) -> None:
        for _ in range(READS_EACH):
            at_least = max(acknowledged[user], seen[user])
            try:
                history = await server.read(user)
            except HistoryUnavailable:
                await asyncio.sleep(0.01)
                continue
            assert at_least <= history.seq <= acknowledged[user] + 1  # one more may be stored and not yet acknowledged
            seen[user] = max(seen[user], history.seq)
            reads[user].append(history)

    await asyncio.gather(
        *(write(user, random.Random(user)) for user in USERS),
        *(read(user, s) for user in USERS for s in servers for _ in range(2)),
    )
    disturbing.cancel()
    for proxy in proxies:
        proxy.cut_after = None
    await asyncio.sleep(1.3 if proxies else 0)  # until the circuit breakers try again
    for user in USERS:
        final = await servers[0].read(user)
        assert [e.event_id for e in final.events] == [str(i) for i in range(EVENTS_EACH)]
        assert final == await servers[1].read(user)
        assert reads[user]
        for history in reads[user]:
            assert history.events == final.events[: history.seq]
    for server in servers:
        await server.close()
    for proxy in proxies:
        await proxy.__aexit__(None, None, None)


async def disturb(proxies: list[FaultProxy]) -> None:
    """Connections that end, by turns in the middle of an answer."""
    draw = random.Random(0)
    while proxies:
        proxy = draw.choice(proxies)
        proxy.cut_after, proxy.reset = draw.randrange(2000), draw.random() < 0.5
        await asyncio.sleep(0.03)
        proxy.cut_after = None
        await asyncio.sleep(0.05)
