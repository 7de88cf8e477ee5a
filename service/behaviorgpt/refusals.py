"""Refusals in the statuses that the client knows, and scopes that depend on what a request asks for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.http.keys import Scope
from service.http.route_table import Handler


@dataclass(frozen=True, slots=True)
class Access:
    """What the key of the current request may do. Without keys every caller may do everything."""

    key_id: Callable[[], str | None]
    has_scope: Callable[[Scope], bool]

    def require(self, scope: Scope) -> None:
        """ApiError forbidden when the key lacks a scope beside that of its route."""
        if not self.has_scope(scope):
            raise ApiError("forbidden", f"this needs the scope {scope}, which this key lacks")


def as_bad_request(handler: Handler) -> Handler:
    """The handler with status 400 in place of 422: the client has an error class for it."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            if error.status != 422:
                raise
            where = f"{error.field}: " if error.field and not error.message.startswith(error.field) else ""
            raise ApiError("bad_request", f"{where}{error.message}", error.field) from error

    return handle


@contextmanager
def checking() -> Iterator[None]:
    """ApiError bad_request when a request of ours refuses what it is made of, such as an id with a NUL character."""
    try:
        yield
    except ValueError as error:
        raise ApiError("bad_request", str(error)) from error
