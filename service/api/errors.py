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
    "malformed_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "conflict": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "page_expired": 422,
    "quota_exceeded": 429,
    "internal": 500,
    "delta_off": 501,
    "not_ready": 503,
    "overloaded": 503,
    "history_unavailable": 503,
    "delta_unavailable": 503,
    "deadline_exceeded": 504,
    "delta_full": 507,
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
