"""The routes POST /v1/recommend and POST /v1/recommend/batch."""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.batches import BatchBody, BatchRequest, BatchResponse
from service.api.codec import INTERNAL_ERROR, decode, encode
from service.api.errors import ApiError, ErrorBody, ErrorDetail
from service.http.messages import fresh_id
from service.http.route_table import Route
from service.routes.asking import ask_model
from service.routes.context import Context, ms_since
from service.telemetry.request_record import RECORD

_recommend = msgspec.json.Decoder(schemas.RecommendRequest)
_plain_recommend = msgspec.json.Decoder(schemas.PlainRecommendRequest)
_batch = msgspec.json.Decoder(BatchBody)
_log = logging.getLogger(__name__)

Charge = Callable[[int], None]  # counts to the key the requests beyond the first that a body holds


class RecommendRoutes:
    """Handlers of POST /v1/recommend and POST /v1/recommend/batch."""

    def __init__(self, context: Context, charge: Charge) -> None:
        self._context, self._charge = context, charge

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        return (
            Route(
                "POST",
                ("/v1/recommend", "/recommend"),
                takes=schemas.RecommendRequest,
                gives=schemas.RecommendResponse,
                scope="recommend",
                decode=decode_recommend,
                hot=self.recommend,
                refuse_early=self.refuse_early,
            ),
            Route(
                "POST",
                ("/v1/recommend/batch",),
                self.recommend_batch,
                takes=BatchRequest,
                gives=BatchResponse,
                scope="recommend",
            ),
        )

    def refuse_early(self, request: schemas.RecommendRequest) -> None:
        """ApiError overloaded when there is no room for a request. It takes no place."""
        release = self._context.served.choose(request).release
        deadline_s = self._context.deadlines.of(time.monotonic(), request.timeout_ms)
        self._context.admission.refuse_early(release, request, deadline_s)

    async def recommend(self, request: schemas.RecommendRequest) -> bytes:
        """POST /v1/recommend: the encoded response to a decoded request."""
        response = await self.answer(request, time.monotonic())
        with self._context.metrics.stage("encode"):
            return encode(response)

    async def recommend_batch(self, request: Request) -> Response:
        """POST /v1/recommend/batch: all requests go to the engine at the same time, so that it can batch them."""
        started_s = time.monotonic()
        body = await self._context.body(request, _batch, "requests")
        self._charge(len(body.requests) - 1)

        async def ask(raw: msgspec.Raw) -> schemas.RecommendResponse:
            return await self.answer(decode(raw, _recommend), started_s)

        results = await asyncio.gather(*map(ask, body.requests), return_exceptions=True)
        if record := RECORD.get():
            record.user_id = None  # the requests may be about several users
        request_id: str = request.state.request_id
        bodies = [error_body(result, request_id) if isinstance(result, BaseException) else result for result in results]
        return self._context.encoded(BatchResponse(results=bodies, took_ms=ms_since(started_s)))

    async def answer(self, request: schemas.RecommendRequest, started_s: float) -> schemas.RecommendResponse:
        """The response to one request, which arrived at `started_s` (monotonic)."""
        answer = await ask_model(self._context, request, started_s, self._context.calls.recommend)
        ranking, chosen = answer.result, answer.chosen
        self._context.comparisons.note(chosen, answer.user_request, ranking)
        self._context.follow_ups.note(chosen.variant, answer.user_request, ranking.items)
        degraded = answer.degraded + ranking.degraded
        has_items = bool(ranking.items) or request.validate_only
        self._context.count_answer(degraded, len(ranking.missing_item_ids), has_items)
        if chosen.trial and (ranking.degraded or not has_items):
            chosen.trial.note_degraded(chosen.variant)
        return schemas.RecommendResponse(
            recommendation_id=fresh_id(),
            items=ranking.items,
            release=chosen.release.id,
            variant=chosen.variant,
            events_used=ranking.events_used,
            events_ignored=ranking.events_ignored,
            missing_item_ids=ranking.missing_item_ids,
            history_seq=answer.history_seq,
            degraded=degraded,
            next_page_token=ranking.next_page_token,
            took_ms=ms_since(started_s),
        )


def decode_recommend(body: bytes) -> schemas.RecommendRequest:
    """The request in a body; ApiError that names what is wrong and in which field."""
    return decode(body, _plain_recommend) if schemas.is_plain(body) else decode(body, _recommend)


def error_body(error: BaseException, request_id: str) -> ErrorBody:
    """The error of one entry of a batch. The text of an unexpected error stays in our log, because it is a bug of ours."""
    if not isinstance(error, ApiError):
        _log.error("request %s: an entry of a batch failed", request_id, exc_info=error)
        error = ApiError("internal", INTERNAL_ERROR)
    return ErrorBody(ErrorDetail(code=error.code, message=error.message, request_id=request_id, field=error.field))
