"""Every way a request can fail: one table from code to status, one body for all of them."""

from typing import Literal

import msgspec

Code = Literal[
    "malformed_json",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "slow_body",
    "conflict",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "page_expired",
    "quota_exceeded",
    "internal",
    "delta_off",
    "not_ready",
    "overloaded",
    "history_unavailable",
    "delta_unavailable",
    "deadline_exceeded",
    "delta_full",
]

STATUS: dict[Code, int] = {
    "malformed_json": 400,  # the body is not JSON
    "unauthorized": 401,  # the API key is missing, unknown or expired
    "forbidden": 403,  # the key lacks the scope of this route
    "not_found": 404,  # there is no such path, item or release
    "method_not_allowed": 405,  # the path is there, but not for this method
    "slow_body": 408,  # the body took longer than `TWOTOWER_BODY_TIMEOUT_S`
    "conflict": 409,  # the store's pointer could not be moved; the server's log says why
    "body_too_large": 413,  # the body is larger than `TWOTOWER_MAX_BODY_BYTES`
    "unsupported_media_type": 415,  # the body is not sent as application/json, or is compressed
    "invalid_request": 422,  # a field has a wrong type, value or name; `field` says which
    "page_expired": 422,  # another release is served by now: ask again without `page_token`
    "quota_exceeded": 429,  # the key's requests per second are used up; `Retry-After` says for how long
    "internal": 500,  # our bug; the log has the traceback under the same request id
    "delta_off": 501,  # this server has no file for item changes
    "not_ready": 503,  # the server is leaving, or its engine has ended
    "overloaded": 503,  # too many requests wait for the engine
    "history_unavailable": 503,  # the history store did not answer; send events again under the same event_id
    "delta_unavailable": 503,  # the item change could not be stored; send it again
    "deadline_exceeded": 504,  # the request's time was over before its answer
    "delta_full": 507,  # more items have changed since the nightly job than `TWOTOWER_MAX_DELTA_ITEMS`
}
RETRY_AFTER_S = 1  # sent with every 503: what makes us refuse passes within a second or needs an operator


class ApiError(Exception):
    """A refusal that the client is told about."""

    def __init__(self, code: Code, message: str, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.field = code, message, field
        self.retry_after_s = RETRY_AFTER_S if retry_after_s is None and self.status == 503 else retry_after_s

    @property
    def status(self) -> int:
        """HTTP status of the refusal."""
        return STATUS[self.code]


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, in which field, and the id to quote when asking about it."""

    code: str
    message: str
    request_id: str
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of every answer that is not a success."""

    error: ErrorDetail
