"""The tiny shop served: its release loaded once, clients that speak to the app without a socket, and a real Redis."""

import asyncio
import json
import shutil
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from embedder_cache.build import build_release
from service.api.schemas import RecommendRequest
from service.app import build_app
from service.engine.admission import Admission
from service.engine.calls import ModelCalls
from service.engine.thread import Engine, Limits
from service.histories.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.release.changes import ItemChanges
from service.release.loaded import LoadedRelease
from service.release.loading import load_release, open_release
from service.release.source import ReleaseSource
from service.rollout.canary import CanaryJudge
from service.rollout.follow import Follower
from service.rollout.loading import ReleaseLoader
from service.rollout.pinned import pinned_releases
from service.rollout.plan import Plan
from service.rollout.served import ServedReleases
from service.rollout.shadow import Comparisons
from service.rollout.swap import Swapper
from service.settings import Settings
from service.states.cache import UserCache
from service.telemetry.deadlines import Deadlines
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
    """The histories of all users; every ninth event is a search instead."""
    users = sorted({e.user_id for e in shop_events})
    return {u: UserHistory().extended(with_searches([e for e in shop_events if e.user_id == u])) for u in users}


def with_searches(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events, of which every ninth is a search instead."""
    texts = ("dark bread", "TEA", "something else")
    search = {"event_type": "search", "item_id": None, "properties": {"channel": "web"}}
    return [
        msgspec.structs.replace(event, query=texts[n % 3], **search) if n % 9 == 4 else event for n, event in enumerate(events)
    ]


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

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
        ids = sorted(u for u in self.users if u > after and u.startswith(prefix))[:limit]
        return [(user_id, self.users[user_id].num_events) for user_id in ids]

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

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
        raise HistoryUnavailable("down")

    async def delete(self, user_id: str) -> int:
        raise HistoryUnavailable("down")

    async def close(self) -> None:
        pass


def recommend(release: LoadedRelease, request: RecommendRequest, stored: UserHistory, now_ms: int) -> Ranking:
    """One answer, with no user state kept; an error of the answer is raised."""
    (answer,) = recommend_many(release, [UserRequest(request, stored, now_ms)], UserCache(0))
    if isinstance(answer, Exception):
        raise answer
    return answer


class Client:
    """Calls an app in this process; errors that the app does not answer are raised here."""

    def __init__(
        self, settings: Settings, release: LoadedRelease, history: HistoryStore, delta: DeltaStore | None = None
    ) -> None:
        self.history = history
        self.app = build_app(settings, release, history, Metrics(CollectorRegistry()), delta)
        self.context = self.app.context
        fastapi = self.app.fastapi
        self._runner = asyncio.Runner()
        self._lifespan: AbstractAsyncContextManager[Any] = fastapi.router.lifespan_context(fastapi)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app.asgi), base_url="http://shop")

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
        self.metrics, self.source = Metrics(CollectorRegistry()), ReleaseSource(LocalStore(store), signed_by)
        loaded = open_release(release_path(store, release))
        self.engine = on or Engine(1, Limits(max_queued=64))
        deadlines = Deadlines(self.metrics, settings.request_timeout_s)
        admission = Admission(self.engine, self.metrics)
        self.cache = UserCache(1 << 29)
        self.calls = ModelCalls(self.engine, admission, deadlines, self.cache)
        self.changes = ItemChanges(delta, 100) if delta else None
        self.served = ServedReleases(loaded, plan, self.changes, pinned_releases(self.source, plan, loaded), self.calls.hand_over)
        self.comparisons = Comparisons(self.served, self.calls, self.engine, self.metrics)
        loader = ReleaseLoader(self.source, self.engine, self.calls, 2 if settings.engine == "process" else 1, available)
        swapper = Swapper(self.served, self.engine, loader, self.metrics, settings.keep_old_s)
        judge = CanaryJudge(self.served, swapper, loader, self.metrics)
        self.follower = Follower(self.served, loader, swapper, judge, self.metrics, settings.poll_s)
        self._runner = asyncio.Runner()
        self.engine.start()
        self.run(self.engine.load(loaded))

    def close(self) -> None:
        self.run(self.follower.close())
        self.engine.close()
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def look(self) -> str:
        return self.run(self.follower.look())

    def answer(self, **body: Any) -> tuple[str, str, list[str]]:
        """Release, variant and items of an answer."""
        request = RecommendRequest(**body)
        chosen = self.served.choose(request)
        ranking = self.run(self.calls.recommend_aside(chosen.release, UserRequest(request, UserHistory(), NOW_MS)))
        return chosen.release.id, chosen.variant, [item.item_id for item in ranking.items]

    @staticmethod
    def answers_of(store: Path, release: str) -> list[str]:
        """What a release answers when it is asked as `answer` asks it."""
        server = Following(store, release)
        try:
            return server.answer()[2]
        finally:
            server.close()

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


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
