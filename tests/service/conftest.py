"""The tiny shop served: its release loaded once, clients that speak to the app without a socket, and a real Redis."""

import asyncio
import json
import math
import shutil
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

import httpx
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from embedder_cache.build import build_release
from service.api.schemas import RecommendRequest
from service.app import build_app
from service.engine.thread import Engine, Limits
from service.histories.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.model.user_states import Keeping
from service.ranking.recommend import Asked, recommend_many
from service.ranking.rules import Ranking
from service.release.changes import ItemChanges
from service.release.loaded import LoadedRelease
from service.release.loading import load_release, open_release
from service.release.source import Source
from service.rollout.follow import Follower
from service.rollout.pinned import pinned_releases
from service.rollout.variants import Plan, Variants
from service.routes.context import Service
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.redis_server import RedisServer
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.item_changes import DeltaStore
from twotower.artefacts.release import release_path
from twotower.artefacts.signature import Verifier
from twotower.artefacts.store import LocalStore

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
            before = self.users.get(event.user_id) or UserHistory(epoch=uuid.uuid4().hex)
            stored.append(event.event_id is None or event.event_id not in {e.event_id for e in before.events})
            if stored[-1]:
                self.users[event.user_id] = before.extended([event], tag=uuid.uuid4().hex)
        return stored

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        return self.users.get(user_id, UserHistory())

    async def delete(self, user_id: str) -> int:
        return self.users.pop(user_id, UserHistory()).num_events

    async def close(self) -> None:
        pass


class UnreachableHistory:
    """A HistoryStore that is down."""

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        raise HistoryUnavailable("down")

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        raise HistoryUnavailable("down")

    async def delete(self, user_id: str) -> int:
        raise HistoryUnavailable("down")

    async def close(self) -> None:
        pass


def recommend(release: LoadedRelease, asked: RecommendRequest, stored: UserHistory, now_ms: int) -> Ranking:
    """One answer, with nothing kept of anybody; what would be refused is raised."""
    (answer,) = recommend_many(release, [Asked(asked, stored, now_ms)], Keeping(0))
    if isinstance(answer, Exception):
        raise answer
    return answer


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
    """A real Redis on a Unix socket, shared by tests that leave it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis for one test to mistreat."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


class TwoReleases(NamedTuple):
    """A store with two releases of disjoint catalogues, the second one current."""

    store: Path
    first: str
    second: str


@pytest.fixture(scope="session")
def published_two(tiny_bundle: Path, tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoReleases:
    directory, releases = tmp_path_factory.mktemp("two"), []
    for start in (0, 200):
        items = directory / f"{start}.parquet"
        pq.write_table(pq.read_table(tiny_shop / "items.parquet").slice(start, 200), items)
        releases.append(build_release(load_bundle(tiny_bundle), items, directory / "store", None, forced="a test").release)
    return TwoReleases(directory / "store", *releases)


@pytest.fixture
def two(published_two: TwoReleases, tmp_path: Path) -> TwoReleases:
    """The same in a copy of the test's own."""
    return TwoReleases(Path(shutil.copytree(published_two.store, tmp_path / "store")), *published_two[1:])


class Following:
    """A server without HTTP that began with one release of a store, and its follower, asked to look by the test alone."""

    def __init__(
        self,
        store: Path,
        release: str,
        plan: Plan = Plan(),  # noqa: B008  # frozen
        delta: DeltaStore | None = None,
        available: Callable[[], int | None] = lambda: None,
        signed_by: Verifier | None = None,
        on: Engine | None = None,
        **changes: Any,
    ) -> None:
        settings = Settings(store=store, torch_threads=1, poll_s=3600, **changes)
        metrics, self.source = Metrics(CollectorRegistry()), Source(LocalStore(store), signed_by)
        loaded = open_release(release_path(store, release))
        self.service = Service(
            settings,
            loaded,
            MemoryHistory(),
            on or Engine(1, Limits(max_queued=64)),
            metrics,
            Variants(plan, metrics),
            ItemChanges(delta, 100) if delta else None,
            pinned_releases(self.source, plan, loaded),
        )
        self.follower = Follower(self.service, self.source, available)
        self._runner = asyncio.Runner()
        self.service.engine.start()
        self.run(self.service.engine.load(loaded))

    def close(self) -> None:
        self.run(self.follower.close())
        self.service.engine.close()
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def look(self) -> str:
        return self.run(self.follower.look())

    def answer(self, **body: Any) -> tuple[str, str, list[str]]:
        """Release, variant and items of an answer."""

        async def ask() -> tuple[str, str, list[str]]:
            asked = RecommendRequest(**body)
            release, variant = self.service.variants.choose(self.service.release, self.service.others, asked)
            ranking = await self.service.rank(release, Asked(asked, UserHistory(), NOW_MS), math.inf)
            return release.id, variant, [item.item_id for item in ranking.items]

        return self.run(ask())

    @staticmethod
    def answers_of(store: Path, release: str) -> list[str]:
        """What a release answers when it is asked as `answer` asks it."""
        server = Following(store, release)
        try:
            return server.answer()[2]
        finally:
            server.close()

    def count(self, metric: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(metric, labels) or 0.0


@pytest.fixture
def follow() -> Iterator[Callable[..., Following]]:
    """Starts servers that follow a store."""
    started: list[Following] = []

    def follow(*arguments: Any, **options: Any) -> Following:
        started.append(Following(*arguments, **options))
        return started[-1]

    yield follow
    for following in started:
        following.close()
