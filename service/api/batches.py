"""Request and response of POST /v1/recommend/batch."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.api.errors import ErrorBody
from service.api.schemas import RecommendRequest, RecommendResponse

MAX_BATCH = 64


_ENTRY = {"oneOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (RecommendResponse, ErrorBody)]}


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several recommendation requests in one body. Each is answered or refused on its own."""

    requests: Annotated[list[RecommendRequest], Meta(max_length=MAX_BATCH)]  # answered in this order


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """BatchRequest as the server decodes it: requests stay raw, so that one bad request does not spoil the others."""

    requests: Annotated[list[msgspec.Raw], Meta(max_length=MAX_BATCH)]


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """For each request what it would have got alone: its answer, or the body of its error."""

    results: Annotated[list[Any], Meta(extra_json_schema={"items": _ENTRY})]  # in the order of the requests
    took_ms: float  # time in the server, in milliseconds
