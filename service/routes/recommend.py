"""What each route does: decode, history, engine, encode. One table says where each is found."""

import time
from functools import partial

import msgspec
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.api import schemas
from service.api.batches import BatchBody, BatchRequest, BatchResponse
from service.api.codec import decode, encode
from service.api.errors import ApiError
from service.api.scores import ScoreRequest, ScoreResponse
from service.histories.history import UserHistory
from service.histories.intake import judge
from service.http.messages import fresh_id, path_id, reply
from service.http.route_table import Route
from service.ranking.recommend import Asked
from service.ranking.score import score
from service.ranking.similar import find_similar
from service.rollout.variants import Copy
from service.routes.batch import answer_each
from service.routes.context import Service
from service.routes.listings import describe
from service.telemetry.trail import TRAIL

_recommend = msgspec.json.Decoder(schemas.RecommendRequest)
_plain_recommend = msgspec.json.Decoder(schemas.PlainRecommendRequest)
_batch = msgspec.json.Decoder(BatchBody)
_score = msgspec.json.Decoder(ScoreRequest)
_similar = msgspec.json.Decoder(schemas.SimilarRequest)
_events = msgspec.json.Decoder(schemas.EventsBody)


class Routes:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> tuple[Route, ...]:
        """Every route but those of items and of operators."""
        asked, given, user = schemas.RecommendRequest, schemas.RecommendResponse, "/v1/users/{user_id:path}"
        like, listed = schemas.SimilarRequest, schemas.SimilarResponse
        events, stored = schemas.EventsRequest, schemas.EventsResponse
        return (
            Route(
                "POST",
                ("/v1/recommend", "/recommend"),
                None,
                asked,
                given,
                scope="recommend",
                hot=self.recommend,
                admit=self._service.admit,
                glance=self.glance,
            ),
            Route("POST", ("/v1/recommend/batch",), self.recommend_batch, BatchRequest, BatchResponse, scope="recommend"),
            Route("POST", ("/v1/score",), self.score, ScoreRequest, ScoreResponse, scope="recommend"),
            Route("POST", ("/v1/similar", "/similar"), self.similar, like, listed, scope="recommend"),
            Route("POST", ("/v1/events", "/events"), None, events, stored, 202, scope="events:write", hot=self.events),
            Route("GET", (user,), self.user, None, schemas.UserResponse, scope="admin"),
            Route("DELETE", (user,), self.delete_user, None, schemas.DeletedResponse, scope="users:delete"),
            Route("GET", ("/livez",), self.live, None, schemas.HealthResponse, scope="open"),
            Route("GET", ("/readyz",), self.ready, None, schemas.HealthResponse, scope="open"),
            Route("GET", ("/metrics",), self.exposition, scope="metrics", private=True),
            Route("GET", ("/",), self.home, status=307, scope="open", private=True),
        )

    async def recommend(self, body: bytes) -> bytes:
        """POST /v1/recommend."""
        started = time.monotonic()
        with self._service.metrics.stage("decode"):
            asked = _decoded(body)
        response = await self.answer(asked, started)
        if trail := TRAIL.get():
            trail.user_id, trail.release = asked.user_id, response.release
        with self._service.metrics.stage("encode"):
            return encode(response)

    def glance(self, body: bytes) -> None:
        """ApiError where there is no room for POST /v1/recommend."""
        asked = _decoded(body)
        release, _ = self._service.variants.choose(self._service.release, self._service.others, asked)
        self._service.look_for_place(release, asked, self._service.deadline(time.monotonic(), asked.timeout_ms))

    async def recommend_batch(self, request: Request) -> Response:
        """POST /v1/recommend/batch."""
        started = time.monotonic()
        body = await self._service.body(request, _batch)
        results = await answer_each(body.requests, lambda asked: self.answer(asked, started), request.state.request_id)
        return self._encode(BatchResponse(results=results, took_ms=_ms_since(started)))

    async def answer(self, asked: schemas.RecommendRequest, started_s: float) -> schemas.RecommendResponse:
        """One answer; `started_s` (monotonic) is when its request came."""
        release, variant = self._service.variants.choose(self._service.release, self._service.others, asked)
        deadline_s = self._service.deadline(started_s, asked.timeout_ms)
        with self._service.place_for(release, asked, deadline_s):
            stored, degraded = await self._service.stored(asked, deadline_s)
        one = Asked(asked, stored or UserHistory(), _moment(asked))
        with self._service.variants.watch(variant):
            ranking = await self._service.by_engine(self._service.rank(release, one, deadline_s), deadline_s)
        self._service.variants.copy(Copy(release.id, variant, one, ranking))
        degraded += ranking.degraded
        self._service.count(degraded, len(ranking.missing_item_ids), bool(ranking.items) or asked.validate_only)
        return schemas.RecommendResponse(
            recommendation_id=fresh_id(),
            items=ranking.items,
            release=release.id,
            variant=variant,
            events_used=ranking.events_used,
            events_ignored=ranking.events_ignored,
            missing_item_ids=ranking.missing_item_ids,
            history_seq=stored.seq if stored else None,
            degraded=degraded,
            next_page_token=ranking.next_page_token,
            took_ms=_ms_since(started_s),
        )

    async def score(self, request: Request) -> Response:
        """POST /v1/score."""
        started = time.monotonic()
        asked = await self._service.body(request, _score)
        release, deadline_s = self._service.release, self._service.deadline(started, asked.timeout_ms)
        stored, degraded = await self._service.stored(asked, deadline_s)
        scores = await self._service.compute(partial(score, release, asked, stored or UserHistory(), _moment(asked)), deadline_s)
        self._service.count(degraded, len(scores.missing_item_ids), bool(scores.items))
        response = ScoreResponse(
            items=scores.items,
            release=release.id,
            events_used=scores.events_used,
            events_ignored=scores.events_ignored,
            missing_item_ids=scores.missing_item_ids,
            history_seq=stored.seq if stored else None,
            degraded=degraded,
            took_ms=_ms_since(started),
        )
        return self._encode(response)

    async def similar(self, request: Request) -> Response:
        """POST /v1/similar."""
        started = time.monotonic()
        asked = await self._service.body(request, _similar)
        release, deadline_s = self._service.release, self._service.deadline(started, asked.timeout_ms)
        stored, degraded = await self._service.stored(asked, deadline_s)
        work = partial(find_similar, release, asked, stored or UserHistory(), _moment(asked))
        items, notes = await self._service.compute(work, deadline_s)
        degraded += notes
        self._service.count(degraded, 0, bool(items))
        return self._encode(
            schemas.SimilarResponse(items=items, release=release.id, degraded=degraded, took_ms=_ms_since(started))
        )

    async def events(self, body: bytes) -> bytes:
        """POST /v1/events: what is counted as accepted is stored."""
        with self._service.metrics.stage("decode"):
            asked = decode(body, _events)
        good, rejected = judge(asked.events, _now_ms())
        stored = await self._service.confirmed("append", self._service.history.append(good)) if good else []
        accepted = sum(stored)
        outcomes = {"accepted": accepted, "duplicate": len(stored) - accepted, "rejected": len(rejected)}
        for outcome, count in outcomes.items():
            if count:
                self._service.metrics.events.labels(outcome).inc(count)
        response = schemas.EventsResponse(accepted=accepted, duplicates=outcomes["duplicate"], rejected=rejected)
        return encode(response)

    async def user(self, request: Request) -> Response:
        """GET /v1/users/{id}: an unknown user has an empty history."""
        user_id = path_id(request, "user_id")
        history = await self._service.confirmed("read", self._service.history.read(user_id))
        return reply(describe(user_id, history))

    async def delete_user(self, request: Request) -> Response:
        """DELETE /v1/users/{id}."""
        user_id = path_id(request, "user_id")
        count = await self._service.confirmed("delete", self._service.history.delete(user_id))
        await self._service.forget(user_id)
        return reply(schemas.DeletedResponse(user_id=user_id, deleted_events=count))

    async def live(self, request: Request) -> Response:
        """GET /livez: 503 when the engine is stuck and the process should be restarted; a busy engine is alive."""
        if trouble := self._service.engine.trouble(self._service.settings.heartbeat_limit_s):
            raise ApiError("not_ready", trouble)
        if not request.scope["state"]["private"]:
            return reply(schemas.HealthResponse(status="ok"))
        age_s = round(self._service.engine.heartbeat_age_s, 3)
        return reply(schemas.HealthResponse(status="ok", release=self._service.release.id, heartbeat_age_s=age_s))

    async def ready(self, request: Request) -> Response:
        """GET /readyz: a server listens once its release is loaded, so what is left is the engine and a server that leaves."""
        if self._service.leaving:
            raise ApiError("not_ready", self._service.leaving)
        return await self.live(request)

    async def exposition(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(generate_latest(self._service.metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def home(self, _: Request) -> Response:
        """GET /."""
        return RedirectResponse("/docs")

    def _encode(self, response: msgspec.Struct) -> Response:
        with self._service.metrics.stage("encode"):
            return reply(response)


def _decoded(body: bytes) -> schemas.RecommendRequest:
    return decode(body, _plain_recommend) if schemas.is_plain(body) else decode(body, _recommend)


def _moment(asked: schemas.AboutUser) -> int:
    return _now_ms() if asked.timestamp is None else schemas.to_ms(asked.timestamp)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ms_since(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 3)
