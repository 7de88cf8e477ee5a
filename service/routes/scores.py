"""The routes POST /v1/score and POST /v1/similar."""

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.scores import ScoreRequest, ScoreResponse
from service.http.route_table import Route
from service.routes.asking import ask_model
from service.routes.context import Context, ms_since

_score = msgspec.json.Decoder(ScoreRequest)
_similar = msgspec.json.Decoder(schemas.SimilarRequest)


class ScoreRoutes:
    """Handlers of POST /v1/score and POST /v1/similar."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        takes, gives = schemas.SimilarRequest, schemas.SimilarResponse
        return (
            Route("POST", ("/v1/score",), self.score, takes=ScoreRequest, gives=ScoreResponse, scope="recommend"),
            Route("POST", ("/v1/similar", "/similar"), self.similar, takes=takes, gives=gives, scope="recommend"),
        )

    async def score(self, request: Request) -> Response:
        """POST /v1/score: log-probabilities of the given items."""
        started_s = time.monotonic()
        body = await self._context.body(request, _score)
        answer = await ask_model(self._context, body, started_s, self._context.calls.score)
        scores = answer.result
        degraded = answer.degraded + scores.degraded
        self._context.count_answer(degraded, len(scores.missing_item_ids), bool(scores.items))
        response = ScoreResponse(
            items=scores.items,
            release=answer.chosen.release.id,
            variant=answer.chosen.variant,
            events_used=scores.events_used,
            events_ignored=scores.events_ignored,
            missing_item_ids=scores.missing_item_ids,
            history_seq=answer.history_seq,
            degraded=degraded,
            took_ms=ms_since(started_s),
        )
        return self._context.encoded(response)

    async def similar(self, request: Request) -> Response:
        """POST /v1/similar: items like a given one, for a user if there is one."""
        started_s = time.monotonic()
        body = await self._context.body(request, _similar)
        answer = await ask_model(self._context, body, started_s, self._context.calls.similar)
        degraded = answer.degraded + answer.result.degraded
        self._context.count_answer(degraded, 0, bool(answer.result.items))
        response = schemas.SimilarResponse(
            items=answer.result.items, release=answer.chosen.release.id, degraded=degraded, took_ms=ms_since(started_s)
        )
        return self._context.encoded(response)
