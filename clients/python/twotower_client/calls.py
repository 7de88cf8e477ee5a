"""Everything of a call that needs no connection. Both clients are made of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec

from twotower_client.answers import STATUS, BatchResponse, ErrorBody, EventsResponse, ItemsResponse, RecommendResponse, Rejected
from twotower_client.errors import AllRejected, ApiError, NotUnderstood, error_of, refusal
from twotower_client.requests import Event
from twotower_client.retries import Repeat
from twotower_client.version import __version__

T = TypeVar("T")
E = TypeVar("E")

LONGEST_S = 15.0  # of each wait of an attempt; longer than the server's own limit of 10 s, so that its answer arrives


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to the server, and the type of its answer."""

    method: str
    path: str  # as it is sent
    gives: type[T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    repeat: Repeat = "always"

    def content(self) -> bytes | None:
        """The body as JSON. ValueError for what JSON cannot hold."""
        if self.body is None:
            return None
        try:
            return msgspec.json.encode(self.body)
        except (TypeError, UnicodeEncodeError, RecursionError) as error:
            raise ValueError(f"the request cannot be sent as JSON: {error}") from error

    def parameters(self) -> dict[str, Any] | None:
        """The query without what is not given."""
        return {name: value for name, value in self.query.items() if value is not None} or None

    def read(self, response: httpx.Response, request_id: str) -> T:
        """The answer; ApiError if it is a refusal, NotUnderstood if it is something else."""
        if not response.is_success:
            raise refusal(response, request_id)
        try:
            return msgspec.json.decode(response.content, type=self.gives)
        except msgspec.DecodeError as error:
            message = f"the answer to {self.method} {self.path} is no answer that client {__version__} knows: {error}"
            raise NotUnderstood(message, request_id) from error


def base_address(url: str) -> str:
    """The address without a slash at its end; ValueError for what is none."""
    address = url.strip().rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no address of a server: write it as http://HOST:PORT or https://HOST")
    return address


def headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request."""
    common = {"content-type": "application/json", "user-agent": f"twotower-client/{__version__}"}
    return common | ({"authorization": f"Bearer {api_key.strip()}"} if api_key else {})


def below(prefix: str, name: str) -> str:
    """The path of an id. Any character may be in it, and dots must not be taken for `..`."""
    if not name:
        raise ValueError("an id has at least one character")
    return f"{prefix}/{quote(name, safe='').replace('.', '%2E')}"


def new_id() -> str:
    """An id that nothing else has."""
    return uuid4().hex


def with_ids(events: Iterable[Event]) -> Iterator[Event]:
    """The events, each with an `event_id`, under which the server stores it once however often it is sent."""
    for event in events:
        yield event if event.get("event_id") else {**event, "event_id": new_id()}


def parts(elements: Iterable[E], most: int) -> Iterator[list[E]]:
    """The elements, `most` at a time, read as they are needed."""
    rest = iter(elements)
    while part := list(islice(rest, most)):
        yield part


class Tally:
    """The outcomes of several requests with parts of one list, as one."""

    def __init__(self) -> None:
        self._accepted = self._duplicates = self._num_sent = 0
        self._rejected: list[Rejected] = []
        self._refusal: AllRejected | None = None

    def add(self, num_sent: int, outcome: EventsResponse | ItemsResponse | AllRejected) -> None:
        """Count the outcome of the next request."""
        if isinstance(outcome, AllRejected):
            self._refusal = outcome
        else:
            self._accepted += outcome.accepted
        if isinstance(outcome, EventsResponse):
            self._duplicates += outcome.duplicates
        self._rejected += [Rejected(index=one.index + self._num_sent, reason=one.reason) for one in outcome.rejected]
        self._num_sent += num_sent

    def of_events(self) -> EventsResponse:
        """What became of all events; AllRejected if nothing is stored of any."""
        if self._refusal is not None and len(self._rejected) == self._num_sent:
            self._refusal.rejected = self._rejected
            raise self._refusal
        return EventsResponse(accepted=self._accepted, duplicates=self._duplicates, rejected=self._rejected)

    def of_items(self) -> ItemsResponse:
        """What became of all items."""
        return ItemsResponse(accepted=self._accepted, rejected=self._rejected)


def results(batch: BatchResponse) -> list[RecommendResponse | ApiError]:
    """For each request of a batch its answer, or the error that it would have raised alone."""
    return [_result(one) for one in batch.results]


def _result(result: dict[str, Any]) -> RecommendResponse | ApiError:
    if "error" not in result:
        return msgspec.convert(result, RecommendResponse)
    detail = msgspec.convert(result, ErrorBody).error
    return error_of(STATUS.get(detail.code, 500), detail)
