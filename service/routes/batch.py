"""POST /v1/recommend/batch: several questions in one request, each answered or refused by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.api.errors import ApiError, ErrorBody, ErrorDetail
from service.api.schemas import RecommendRequest, RecommendResponse
from service.http.messages import INTERNAL_ERROR, decode

MAX_BATCH = 64

_recommend = msgspec.json.Decoder(RecommendRequest)
_ENTRY = {"oneOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (RecommendResponse, ErrorBody)]}
_log = logging.getLogger(__name__)


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several questions at once; each is answered or refused by itself."""

    requests: Annotated[list[RecommendRequest], Meta(max_length=MAX_BATCH)]


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """BatchRequest as decoded: requests stay raw, so that one bad request does not refuse the others."""

    requests: Annotated[list[msgspec.Raw], Meta(max_length=MAX_BATCH)]


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of the requests, what each would have got alone: its answer, or the body of its error."""

    results: Annotated[list[Any], Meta(extra_json_schema={"items": _ENTRY})]
    took_ms: float


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
