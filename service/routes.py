"""What each route does: decode, history, engine, encode. One table says where each is found."""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import msgspec
import pyarrow as pa
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service import schemas
from service.batch import Answer, Asked, num_tokens, recommend_many
from service.delta import ItemChanges, judge_ids
from service.engine import Batched, Engine
from service.errors import ApiError
from service.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.index import LoadedRelease
from service.listings import describe, release_entries
from service.metrics import Metrics
from service.recommender import Ranking, find_similar, to_stored
from service.settings import Settings
from service.wire import decode, read_json, reply
from twotower.catalogue import ID_FIELD
from twotower.delta import Changed

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

HISTORY_UNAVAILABLE = "history_unavailable"
CLOCK_SKEW_MS = 86_400_000  # a stored event may lie a day ahead of us: clients' clocks and time zones are what they are
_recommend = msgspec.json.Decoder(schemas.RecommendRequest)
_similar = msgspec.json.Decoder(schemas.SimilarRequest)
_events = msgspec.json.Decoder(schemas.EventsBody)
_put = msgspec.json.Decoder(schemas.PutItemsBody)
_delete = msgspec.json.Decoder(schemas.DeleteItemsBody)
_event = msgspec.json.Decoder(schemas.Event)


@dataclass(frozen=True, slots=True)
class Route:
    """One route and the types its OpenAPI entry is made from."""

    method: str
    paths: tuple[str, ...]  # the first is its name; the others are aliases
    handler: Handler
    takes: type[msgspec.Struct] | None = None
    gives: type[msgspec.Struct] | None = None
    status: int = 200


@dataclass(slots=True)
class Service:
    """State of one server, and its handlers."""

    settings: Settings
    release: LoadedRelease
    history: HistoryStore
    engine: Engine
    metrics: Metrics
    changes: ItemChanges | None = None
    _recommend_many: Callable[[LoadedRelease, Sequence[Asked]], Sequence[Answer]] = field(init=False)

    def __post_init__(self) -> None:
        cache_bytes = self.settings.user_cache_mb << 20
        self._recommend_many = partial(recommend_many, cache_bytes=cache_bytes)

    def routes(self) -> tuple[Route, ...]:
        """Every route there is."""
        return (
            Route(
                "POST",
                ("/v1/recommend", "/recommend"),
                self.recommend,
                schemas.RecommendRequest,
                schemas.RecommendResponse,
            ),
            Route("POST", ("/v1/similar", "/similar"), self.similar, schemas.SimilarRequest, schemas.SimilarResponse),
            Route("POST", ("/v1/events", "/events"), self.events, schemas.EventsRequest, schemas.EventsResponse, 202),
            Route("PUT", ("/v1/items",), self.put_items, schemas.PutItemsRequest, schemas.ItemsResponse),
            Route("DELETE", ("/v1/items",), self.delete_items, schemas.DeleteItemsRequest, schemas.ItemsResponse),
            Route("GET", ("/v1/items/{item_id:path}",), self.item, None, schemas.ItemResponse),
            Route("GET", ("/v1/users/{user_id:path}",), self.user, None, schemas.UserResponse),
            Route("DELETE", ("/v1/users/{user_id:path}",), self.delete_user, None, schemas.DeletedResponse),
            Route("GET", ("/v1/releases",), self.releases, None, schemas.ReleasesResponse),
            Route("GET", ("/livez",), self.live, None, schemas.HealthResponse),
            Route("GET", ("/readyz",), self.ready, None, schemas.HealthResponse),
            Route("GET", ("/metrics",), self.exposition),
            Route("GET", ("/",), self.home),
        )

    async def recommend(self, request: Request) -> Response:
        """POST /v1/recommend."""
        started = time.monotonic()
        asked = await self._body(request, _recommend)
        release, deadline_s = self.release, self._deadline(started, asked.timeout_ms)
        now_ms = _now_ms() if asked.timestamp is None else schemas.to_ms(asked.timestamp)
        stored, degraded = await self._stored(asked, deadline_s)
        asked_of = Asked(asked, stored or UserHistory(), now_ms)
        ranking = await self._rank(release, asked_of, deadline_s)
        degraded += ranking.degraded
        self._count(degraded, len(ranking.missing_item_ids), bool(ranking.items) or asked.validate_only)
        response = schemas.RecommendResponse(
            recommendation_id=uuid.uuid4().hex,
            items=ranking.items,
            release=release.id,
            events_used=ranking.events_used,
            events_ignored=ranking.events_ignored,
            missing_item_ids=ranking.missing_item_ids,
            history_seq=stored.seq if stored else None,
            degraded=degraded,
            took_ms=_ms_since(started),
        )
        return self._encode(response)

    async def similar(self, request: Request) -> Response:
        """POST /v1/similar."""
        started = time.monotonic()
        asked = await self._body(request, _similar)
        release = self.release
        items, degraded = await self._compute(partial(find_similar, release, asked), self._deadline(started, asked.timeout_ms))
        self._count(degraded, 0, bool(items))
        return self._encode(
            schemas.SimilarResponse(items=items, release=release.id, degraded=degraded, took_ms=_ms_since(started))
        )

    async def events(self, request: Request) -> Response:
        """POST /v1/events: what is counted as accepted is stored."""
        body = await self._body(request, _events)
        good, rejected = judge(body.events, _now_ms())
        stored = await self._confirmed("append", self.history.append(good)) if good else []
        accepted = sum(stored)
        outcomes = {"accepted": accepted, "duplicate": len(stored) - accepted, "rejected": len(rejected)}
        for outcome, count in outcomes.items():
            self.metrics.events.labels(outcome).inc(count)
        response = schemas.EventsResponse(accepted=accepted, duplicates=outcomes["duplicate"], rejected=rejected)
        return reply(response, 202)

    async def put_items(self, request: Request) -> Response:
        """PUT /v1/items: what is counted as accepted is stored, and served from the next request on."""
        body = await self._body(request, _put)
        changes = self._changes()
        items, rows, rejected = await changes.judge(body.items)
        await asyncio.shield(self._change(changes, items, rows))
        return self._changed("put", len(body.items), rejected)

    async def delete_items(self, request: Request) -> Response:
        """DELETE /v1/items."""
        body = await self._body(request, _delete)
        changes = self._changes()
        item_ids, rejected = judge_ids(body.item_ids)
        await asyncio.shield(self._change(changes, dict.fromkeys(item_ids), changes.base.items.schema.empty_table()))
        return self._changed("delete", len(body.item_ids), rejected)

    async def item(self, request: Request) -> Response:
        """GET /v1/items/{id}."""
        item_id, release = _path_id(request, "item_id"), self.release
        if item_id not in release.rows:
            raise ApiError("not_found", f"the catalogue has no item {item_id!r}")
        row = release.rows[item_id]
        (metadata,) = release.items.slice(row, 1).drop_columns([ID_FIELD]).to_pylist()
        source: Literal["release", "delta"] = "release" if row < len(release.vectors_NV) else "delta"
        return reply(schemas.ItemResponse(item_id=item_id, source=source, metadata=metadata, release=release.id))

    async def user(self, request: Request) -> Response:
        """GET /v1/users/{id}: an unknown user has an empty history."""
        user_id = _path_id(request, "user_id")
        history = await self._confirmed("read", self.history.read(user_id))
        return reply(describe(user_id, history))

    async def delete_user(self, request: Request) -> Response:
        """DELETE /v1/users/{id}."""
        user_id = _path_id(request, "user_id")
        count = await self._confirmed("delete", self.history.delete(user_id))
        return reply(schemas.DeletedResponse(user_id=user_id, deleted_events=count))

    async def releases(self, _: Request) -> Response:
        """GET /v1/releases."""
        entries = await asyncio.to_thread(partial(release_entries, self.settings))
        return reply(schemas.ReleasesResponse(serving=self.release.id, releases=entries))

    async def live(self, _: Request) -> Response:
        """GET /livez: 503 when the engine is stuck and the process should be restarted; a busy engine is alive."""
        age_s = self.engine.heartbeat_age_s
        if age_s > self.settings.heartbeat_limit_s:
            raise ApiError("not_ready", f"the engine has not moved for {age_s:.1f} s")
        return reply(schemas.HealthResponse(status="ok", release=self.release.id, heartbeat_age_s=round(age_s, 3)))

    async def ready(self, request: Request) -> Response:
        """GET /readyz: the server starts listening once its release is loaded, so what is left is the engine."""
        return await self.live(request)

    async def exposition(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(generate_latest(self.metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def home(self, _: Request) -> Response:
        """GET /."""
        return RedirectResponse("/docs")

    async def restore(self) -> None:
        """Serve what was changed before this start."""
        if self.changes:
            stored = await self.changes.stored()
            self.release = await self.engine.submit(partial(self.changes.restore, stored), math.inf)

    @property
    def num_changed(self) -> tuple[int, int]:
        """Items put and items deleted since the release was built."""
        added = self.release.added
        num_put = len(added.vectors_AV) if added else 0
        return num_put, (len(added.changes) if added else 0) - num_put

    def _changes(self) -> ItemChanges:
        if self.changes is None:
            raise ApiError(
                "delta_off",
                "this server has no file for item changes: start it with --delta sqlite:///FILE, or give the nightly job the "
                "items. Servers that share their histories in Redis share no such file.",
            )
        return self.changes

    async def _change(self, changes: ItemChanges, items: Changed, put: pa.Table) -> None:
        """Embed, store, and only then serve; one change after the other."""
        if not items:
            return
        async with changes.one_at_a_time:
            work = partial(changes.apply, self.release, items, put)
            result = await self._compute(work, time.monotonic() + self.settings.request_timeout_s)
            await changes.write(items)
            self.release = result

    def _changed(self, method: str, num_asked: int, rejected: list[schemas.Rejected]) -> Response:
        accepted = num_asked - len(rejected)
        self.metrics.item_changes.labels(method, "accepted").inc(accepted)
        self.metrics.item_changes.labels(method, "rejected").inc(len(rejected))
        return reply(schemas.ItemsResponse(accepted=accepted, rejected=rejected))

    async def _body(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        with self.metrics.stage("decode"):
            return await read_json(request, decoder, self.settings)

    def _deadline(self, started_s: float, timeout_ms: int | None) -> float:
        return started_s + (timeout_ms / 1000 if timeout_ms else self.settings.request_timeout_s)

    async def _stored(self, asked: schemas.RecommendRequest, deadline_s: float) -> tuple[UserHistory | None, list[str]]:
        """What the store knows of the user, None when it was not asked or could not answer, and notes for `degraded`."""
        if asked.user_id is None or asked.history_mode == "replace":
            return None, []
        try:
            async with self._stage("history", deadline_s):
                return await self.history.read(asked.user_id), []
        except HistoryUnavailable:
            self.metrics.history_errors.labels("read").inc()
            return None, [HISTORY_UNAVAILABLE]

    async def _confirmed(self, op: str, call: Awaitable[T]) -> T:
        """The result of a call of the history store, without which there is no answer."""
        try:
            async with self._stage("history", time.monotonic() + self.settings.request_timeout_s):
                return await call
        except HistoryUnavailable as error:
            self.metrics.history_errors.labels(op).inc()
            message = "the history store did not confirm; send it again, events under the same event_id"
            raise ApiError("history_unavailable", message) from error

    async def _rank(self, release: LoadedRelease, asked: Asked, deadline_s: float) -> Ranking:
        call = self.engine.submit_to(Batched(self._recommend_many, release), asked, num_tokens(release, asked), deadline_s)
        return await self._engine(call, deadline_s)  # type: ignore[no-any-return]

    async def _compute(self, work: Callable[[], T], deadline_s: float) -> T:
        return await self._engine(self.engine.submit(work, deadline_s), deadline_s)

    async def _engine(self, call: Awaitable[T], deadline_s: float) -> T:
        try:
            async with self._stage("engine", deadline_s):
                return await call
        except ApiError as error:
            if error.code == "overloaded":
                self.metrics.rejected.labels("queue_full").inc()
            raise

    @asynccontextmanager
    async def _stage(self, name: str, deadline_s: float) -> AsyncIterator[None]:
        """Time a stage and end it at the deadline."""
        with self.metrics.stage(name):
            try:
                async with asyncio.timeout(max(deadline_s - time.monotonic(), 0)):
                    yield
            except TimeoutError:
                self.metrics.late.labels(name).inc()
                raise ApiError("deadline_exceeded", f"the request's time was over during: {name}") from None

    def _encode(self, response: msgspec.Struct) -> Response:
        with self.metrics.stage("encode"):
            return reply(response)

    def _count(self, degraded: list[str], num_unknown: int, has_items: bool) -> None:
        self.metrics.unknown_items.inc(num_unknown)
        self.metrics.empty.inc(not has_items)
        for reason in degraded:
            self.metrics.degraded.labels(reason).inc()


def judge(raw_events: list[msgspec.Raw], now_ms: int) -> tuple[list[StoredEvent], list[schemas.Rejected]]:
    """The events that may be stored, and why the others may not."""
    good: list[StoredEvent] = []
    rejected: list[schemas.Rejected] = []
    for index, raw in enumerate(raw_events):
        try:
            event = decode(raw, _event)
            if event.user_id is None:
                raise ApiError("invalid_request", "Object missing required field `user_id`", "user_id")
            if event.time_ms > now_ms + CLOCK_SKEW_MS:
                raise ApiError("invalid_request", "timestamp: lies more than a day in the future", "timestamp")
        except ApiError as error:
            where = f" (field {error.field})" if error.field else ""
            rejected.append(schemas.Rejected(index=index, reason=error.message + where))
        else:
            good.append(to_stored(event, event.user_id))
    return good, rejected


def _path_id(request: Request, name: str) -> str:
    value: str = request.path_params[name]
    try:
        schemas.check_id(value)
    except ValueError as error:
        raise ApiError("invalid_request", str(error), name) from error
    return value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ms_since(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 3)
