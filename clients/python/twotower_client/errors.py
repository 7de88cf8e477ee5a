"""What can go wrong with a call, as exceptions.

TwotowerError
    NoAnswer            no server, or the connection broke
        TimedOut
    NotUnderstood       an answer that is no answer of a twotower server of this version
    ApiError            the server refused; code, message and field say why
        Unauthorized    401
        Forbidden       403
        NotFound        404
        Conflict        409
        InvalidRequest  other 4xx
            AllRejected every event of the request was rejected
            PageExpired the catalogue has changed since the page before
        QuotaExceeded   429
        Unavailable     502, 503, 504
        ServerFault     other 5xx
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from twotower_client import answers
from twotower_client.requests import Event

SHOWN = 200  # characters of an answer that is no JSON


class TwotowerError(Exception):
    """A call that did not succeed. The server's log has more under `request_id`."""

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.message, self.request_id = message, request_id
        self.unsent: list[Event] = []  # events of the failed request, with their ids: sent again, each is stored once


class NoAnswer(TwotowerError):
    """No answer came. Unless `was_sent` is false, the server may have done what was asked."""

    def __init__(self, message: str, request_id: str, was_sent: bool) -> None:
        super().__init__(message, request_id)
        self.was_sent = was_sent


class TimedOut(NoAnswer):
    """No answer came in time."""


class NotUnderstood(TwotowerError):
    """The answer is not one that a twotower server of this client's version gives."""


class ApiError(TwotowerError):
    """The server refused."""

    def __init__(self, status: int, detail: answers.ErrorDetail, retry_after_s: float | None = None) -> None:
        super().__init__(detail.message, detail.request_id)
        self.status, self.code, self.field = status, detail.code, detail.field
        self.retry_after_s = retry_after_s  # how long the server asks to wait

    def __str__(self) -> str:
        field = f" (field {self.field})" if self.field else ""
        return f"{self.status} {self.code}: {self.message}{field} [request {self.request_id}]"


class Unauthorized(ApiError):
    """The API key is missing, unknown or expired."""


class Forbidden(ApiError):
    """The API key lacks the scope of this call."""


class NotFound(ApiError):
    """There is no such item or release, or the address is not that of a twotower server."""


class Conflict(ApiError):
    """The store's pointer could not be moved."""


class InvalidRequest(ApiError):
    """The request is wrong; `message` says what to correct, and `field` where."""


class AllRejected(InvalidRequest):
    """Every event was rejected; `rejected` has the reason of each."""

    rejected: Sequence[answers.Rejected] = ()


class PageExpired(InvalidRequest):
    """The catalogue has changed since the page before: ask again from the first page."""


class QuotaExceeded(ApiError):
    """The key's requests per second are used up."""


class Unavailable(ApiError):
    """The server, or what it stands on, cannot answer at the moment."""


class ServerFault(ApiError):
    """The server failed, or does not do this here; `message` says which."""


_OF_CODE: dict[str, type[ApiError]] = {"page_expired": PageExpired}
_OF_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: QuotaExceeded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def refusal(response: httpx.Response, request_id: str) -> ApiError:
    """The exception for an answer that is no success. Also for that of a proxy, which has no error of ours in its body."""
    status, wait_s = response.status_code, retry_after_s(response.headers.get("retry-after"), datetime.now(UTC))
    try:
        body = msgspec.json.decode(response.content, type=answers.AllRejected)
        refused = AllRejected(status, body.error, wait_s)
        refused.rejected = body.rejected
        return refused
    except msgspec.DecodeError:
        pass
    try:
        detail = msgspec.json.decode(response.content, type=answers.ErrorBody).error
    except msgspec.DecodeError:
        said = " ".join(response.text[:SHOWN].split())
        message = f"{response.url} answered with {status} and no error of twotower, but {said!r}: is the address right?"
        detail = answers.ErrorDetail(code="unknown", message=message, request_id=request_id)
    return error_of(status, detail, wait_s)


def error_of(status: int, detail: answers.ErrorDetail, wait_s: float | None = None) -> ApiError:
    """The exception for an error of the server."""
    usual = InvalidRequest if 400 <= status < 500 else ServerFault
    return _OF_CODE.get(detail.code, _OF_STATUS.get(status, usual))(status, detail, wait_s)


def no_answer(error: httpx.RequestError, address: str, request_id: str) -> NoAnswer:
    """The exception for a request that got no answer."""
    was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{address} did not answer in time ({type(error).__name__})", request_id, was_sent)
    doing = "broke the connection" if was_sent else "cannot be reached"
    return NoAnswer(f"{address} {doing}: {error or type(error).__name__}", request_id, was_sent)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for, in seconds: it is a number, or from some proxies a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment - now).total_seconds()) if moment.tzinfo else None
