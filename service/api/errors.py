"""All errors that a client can get: a table from error code to HTTP status, and the body that all error responses have."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

Code = Literal[
    "malformed_json",
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "slow_body",
    "conflict",
    "catalog_pending",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "page_expired",
    "quota_exceeded",
    "internal",
    "delta_off",
    "uploads_off",
    "not_ready",
    "overloaded",
    "history_unavailable",
    "delta_unavailable",
    "deadline_exceeded",
    "delta_full",
    "no_room",
]

STATUS: dict[Code, int] = {
    "malformed_json": 400,  # the body is not JSON
    "bad_request": 400,  # as `invalid_request`, at the routes of the [behaviorgpt client](behaviorgpt.md)
    "unauthorized": 401,  # the API key is missing, unknown or expired
    "forbidden": 403,  # the key lacks the scope of this route
    "not_found": 404,  # there is no such path, item or release
    "method_not_allowed": 405,  # the path exists, but does not accept this method
    "slow_body": 408,  # the body took longer than `TWOTOWER_BODY_TIMEOUT_S`
    "conflict": 409,  # the store's pointer could not be moved; the server's log says why
    "catalog_pending": 409,  # the uploaded catalogue is still being embedded, or a change of it is
    "body_too_large": 413,  # the body is larger than `TWOTOWER_MAX_BODY_BYTES`
    "unsupported_media_type": 415,  # the body is not sent as application/json, or is compressed
    "invalid_request": 422,  # a field has a wrong type, value or name; `field` says which
    "page_expired": 422,  # the catalogue has changed since the page before; ask again without `page_token`
    "quota_exceeded": 429,  # the key's requests per second are used up; `Retry-After` says how long to wait
    "internal": 500,  # a bug of the server; its log has the traceback under the same request id
    "delta_off": 501,  # this server takes no item changes: no file for them, several processes, or an engine process
    "uploads_off": 501,  # this server takes no catalogues: the message says why
    "not_ready": 503,  # the server is shutting down, or its engine is stuck or has ended
    "overloaded": 503,  # too many requests wait for the engine
    "history_unavailable": 503,  # the history store did not answer; send events again under the same event_id
    "delta_unavailable": 503,  # the item change could not be stored; send it again
    "deadline_exceeded": 504,  # the request's deadline passed before the answer
    "delta_full": 507,  # more items have changed since the nightly job than `TWOTOWER_MAX_DELTA_ITEMS`
    "no_room": 507,  # the disk has no room for the upload
}
RETRY_AFTER_S = 1  # sent with every 503, because its cause either ends within a second or needs an operator anyway


class ApiError(Exception):
    """An error that is sent to the client with its code, message and field."""

    rejected: Sequence[Any] = ()  # each part of a request of which nothing was stored, as `schemas.Rejected`

    def __init__(self, code: Code, message: str, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.field = code, message, field
        self.retry_after_s = RETRY_AFTER_S if retry_after_s is None and self.status == 503 else retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS[self.code]


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, in which field, and the request id under which the server's log has more."""

    code: str
    message: str
    request_id: str
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail
