"""The client for asyncio. `client.py` is made from this file by clients/generate.py, and is the same without `await`."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import count
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from twotower_client import calls, limits
from twotower_client.answers import (
    BatchResponse,
    CatalogueResponse,
    DeletedResponse,
    EventsResponse,
    FindItemsResponse,
    HealthResponse,
    ItemResponse,
    ItemsResponse,
    ListUsersResponse,
    MapPointsResponse,
    PointerResponse,
    RecommendResponse,
    RefreshResponse,
    ReleasesResponse,
    ScoreResponse,
    SimilarResponse,
    UserResponse,
)
from twotower_client.calls import Call
from twotower_client.errors import AllRejected, ApiError, TwotowerError, no_answer
from twotower_client.plans import TrainingPlan
from twotower_client.requests import (
    Event,
    Feature,
    FindItemsQuery,
    ListUsersQuery,
    MapPointsRequest,
    PlanQuery,
    RecommendRequest,
    ScoreRequest,
    SimilarRequest,
)
from twotower_client.retries import Retries

T = TypeVar("T")


class AsyncClient:
    """Calls a twotower server. It keeps its connections, so make one and use it for everything, from as many tasks as you like.

    `url` is the server's address, such as http://127.0.0.1:8000, and `api_key` is `ID.SECRET`. `timeout_s` limits each wait of
    an attempt: for a connection, and for the next part of the answer. `http` is an httpx client of your own, for proxies or
    certificates; it stays open when this client closes.

    Every method raises a TwotowerError, whose subclass, code, message and field say why. Calls are sent again as `retries` says,
    and only where that does no harm.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = calls.LONGEST_S,
        retries: Retries = Retries(),  # noqa: B008 # frozen
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._address, self._headers, self._retries = calls.base_address(url), calls.headers(api_key), retries
        self._timeout_s, self._is_ours = timeout_s, http is None
        self._http = http or httpx.AsyncClient()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._is_ours:
            await self._http.aclose()

    async def recommend(self, **request: Unpack[RecommendRequest]) -> RecommendResponse:
        """Rank what comes next for a user."""
        return await self._send(Call("POST", "/v1/recommend", RecommendResponse, request))

    async def recommend_pages(self, **request: Unpack[RecommendRequest]) -> AsyncIterator[RecommendResponse]:
        """Rank what comes next, page after page of `num_results` items, 500 in all. A page is asked for when it is needed."""
        while True:
            page = await self.recommend(**request)
            yield page
            if page.next_page_token is None:
                return
            request = {**request, "page_token": page.next_page_token}

    async def recommend_batch(self, requests: Iterable[RecommendRequest]) -> list[RecommendResponse | ApiError]:
        """Answer many requests at once. A request that is refused has its error in its place, and spoils no other."""
        results: list[RecommendResponse | ApiError] = []
        for part in calls.parts(requests, limits.MAX_BATCH):
            results += calls.results(await self._send(Call("POST", "/v1/recommend/batch", BatchResponse, {"requests": part})))
        return results

    async def similar(self, **request: Unpack[SimilarRequest]) -> SimilarResponse:
        """Find items like an item of the catalogue, or like one that you describe."""
        return await self._send(Call("POST", "/v1/similar", SimilarResponse, request))

    async def score(self, **request: Unpack[ScoreRequest]) -> ScoreResponse:
        """Say how likely each of the given items is to come next for a user."""
        return await self._send(Call("POST", "/v1/score", ScoreResponse, request))

    async def send_event(self, **event: Unpack[Event]) -> EventsResponse:
        """Store one event; AllRejected says what to correct in it."""
        return await self.send_events([event])

    async def send_events(self, events: Iterable[Event]) -> EventsResponse:
        """Store events, any number of them. One without `event_id` gets one, so that an event that is sent twice is stored once.

        Look at `rejected` of the outcome; AllRejected is raised when nothing is stored of any event. When a request fails, the
        error's `unsent` holds its events with their ids: send these again, and then what is left of your iterator.
        """
        tally = calls.Tally()
        for part in calls.parts(calls.with_ids(events), limits.MAX_EVENTS):
            try:
                tally.add(len(part), await self._send(Call("POST", "/v1/events", EventsResponse, {"events": part})))
            except AllRejected as refused:
                tally.add(len(part), refused)
            except TwotowerError as error:
                error.unsent = part
                raise
        return tally.of_events()

    async def users(self, **query: Unpack[ListUsersQuery]) -> ListUsersResponse:
        """Users whose histories are stored, in the order of their ids; the next ones with `after`."""
        return await self._send(Call("GET", "/v1/users", ListUsersResponse, query=query))

    async def user(self, user_id: str) -> UserResponse:
        """Everything that is stored about a user. An unknown user has an empty history."""
        return await self._send(Call("GET", calls.below("/v1/users", user_id), UserResponse))

    async def delete_user(self, user_id: str) -> DeletedResponse:
        """Delete a user's history."""
        return await self._send(Call("DELETE", calls.below("/v1/users", user_id), DeletedResponse))

    async def item(self, item_id: str) -> ItemResponse:
        """An item as it is served; NotFound if the catalogue has none of this id."""
        return await self._send(Call("GET", calls.below("/v1/items", item_id), ItemResponse))

    async def find_items(self, **query: Unpack[FindItemsQuery]) -> FindItemsResponse:
        """Items found by words, the best known first. No model is asked."""
        return await self._send(Call("GET", "/v1/items", FindItemsResponse, query=query))

    async def catalogue(self) -> CatalogueResponse:
        """The features of the items, and the groups that they are in."""
        return await self._send(Call("GET", "/v1/catalogue", CatalogueResponse))

    async def map_points(self, **request: Unpack[MapPointsRequest]) -> MapPointsResponse:
        """Which items lie at points of the map of the catalogue, and at which points items lie."""
        return await self._send(Call("POST", "/v1/map/points", MapPointsResponse, request))

    async def put_items(self, items: Iterable[Mapping[str, Feature]]) -> ItemsResponse:
        """Add or replace items, any number of them, each with `item_id` and its features. Look at `rejected` of the outcome."""
        return await self._change_items("PUT", "items", items)

    async def delete_items(self, item_ids: Iterable[str]) -> ItemsResponse:
        """Remove items, any number of them. Look at `rejected` of the outcome."""
        return await self._change_items("DELETE", "item_ids", item_ids)

    async def releases(self) -> ReleasesResponse:
        """The releases of the store, and how this server uses them."""
        return await self._send(Call("GET", "/v1/releases", ReleasesResponse))

    async def activate_release(self, release: str) -> PointerResponse:
        """Point the store at a release, which all its servers then serve."""
        return await self._send(Call("POST", "/v1/admin/activate", PointerResponse, {"release": release}))

    async def roll_back_release(self) -> PointerResponse:
        """Point the store at the release before. It is sent again only if the server has not done it: two go back further."""
        return await self._send(Call("POST", "/v1/admin/rollback", PointerResponse, repeat="if_undone"))

    async def refresh_release(self) -> RefreshResponse:
        """Let this server look at the store's pointer now, and follow it."""
        return await self._send(Call("POST", "/v1/admin/refresh", RefreshResponse))

    async def plan(self, **query: Unpack[PlanQuery]) -> TrainingPlan:
        """What a budget of compute is best spent on."""
        return await self._send(Call("GET", "/v1/plan", TrainingPlan, query=query))

    async def health(self) -> HealthResponse:
        """Whether the server is ready to answer: Unavailable says why it is not. It is asked once."""
        return await self._send(Call("GET", "/readyz", HealthResponse, repeat="never"))

    async def _change_items(self, method: str, name: str, elements: Iterable[object]) -> ItemsResponse:
        tally = calls.Tally()
        for part in calls.parts(elements, limits.MAX_ITEMS):
            tally.add(len(part), await self._send(Call(method, "/v1/items", ItemsResponse, {name: part})))
        return tally.of_items()

    async def _send(self, call: Call[T]) -> T:
        """The answer to a call, of the first attempt that has one. All attempts have one request id."""
        content, request_id, started_s = call.content(), calls.new_id(), time.monotonic()
        for attempt in count(1):
            try:
                return call.read(await self._attempt(call, content, request_id), request_id)
            except TwotowerError as error:
                wait_s = self._retries.wait_s(error, call.repeat, attempt, time.monotonic() - started_s)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, call: Call[T], content: bytes | None, request_id: str) -> httpx.Response:
        try:
            return await self._http.request(
                call.method,
                self._address + call.path,
                params=call.parameters(),
                content=content,
                headers=self._headers | {"x-request-id": request_id},
                timeout=self._timeout_s,
            )
        except httpx.RequestError as error:
            raise no_answer(error, self._address, request_id) from error
