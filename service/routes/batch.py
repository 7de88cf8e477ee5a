"""POST /v1/recommend/batch: several questions in one request, each answered or refused by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from service.api.codec import INTERNAL_ERROR, decode
from service.api.errors import ApiError, ErrorBody, ErrorDetail
from service.api.schemas import RecommendRequest, RecommendResponse

_recommend = msgspec.json.Decoder(RecommendRequest)
_log = logging.getLogger(__name__)


async def answer_each(
    requests: Sequence[msgspec.Raw], answer: Callable[[RecommendRequest], Awaitable[RecommendResponse]], request_id: str
) -> list[RecommendResponse | ErrorBody]:
    """All asked at the same time, so that the engine can work on them together; whatever one raises is its own."""

    async def ask(raw: msgspec.Raw) -> RecommendResponse:
        return await answer(decode(raw, _recommend))

    results = await asyncio.gather(*map(ask, requests), return_exceptions=True)
    return [error_body(result, request_id) if isinstance(result, BaseException) else result for result in results]


def error_body(error: BaseException, request_id: str) -> ErrorBody:
    """The error of one entry; what we did not foresee is a bug, and its text stays in our log."""
    if not isinstance(error, ApiError):
        _log.error("request %s: an entry of a batch failed", request_id, exc_info=error)
        error = ApiError("internal", INTERNAL_ERROR)
    return ErrorBody(ErrorDetail(code=error.code, message=error.message, request_id=request_id, field=error.field))
