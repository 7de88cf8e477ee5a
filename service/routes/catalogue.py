"""The routes that show the catalogue as a whole: what it holds, and its items found by words. They ask no model."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from service.api.catalogue import (
    CatalogueFeature,
    CatalogueGroup,
    CatalogueResponse,
    FindItemsQuery,
    FindItemsResponse,
    FoundItem,
)
from service.http.messages import read_query, reply
from service.http.route_table import Route
from service.release.finding import Finders, ItemFinder, described
from service.release.loaded import LoadedRelease
from service.routes.context import Context

T = TypeVar("T")


class CatalogueRoutes:
    """Handlers of GET /v1/catalogue and GET /v1/items."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._finders, self._turn = Finders(), asyncio.Semaphore(1)

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        asks, found = FindItemsQuery, FindItemsResponse
        return (
            Route("GET", ("/v1/catalogue",), self.catalogue, gives=CatalogueResponse, scope="recommend"),
            Route("GET", ("/v1/items",), self.find, asks=asks, gives=found, scope="recommend"),
        )

    async def catalogue(self, _: Request) -> Response:
        """GET /v1/catalogue: the features of the items, and the groups that they are in."""
        return reply(await self._search(_catalogue))

    async def find(self, request: Request) -> Response:
        """GET /v1/items: items found by words."""
        query = read_query(request, FindItemsQuery)

        def find(release: LoadedRelease, finder: ItemFinder) -> FindItemsResponse:
            found = finder.find(release, query.words, query.group, query.limit)
            items = [FoundItem(item_id=item_id, metadata=told) for item_id, told in described(release, found.rows)]
            return FindItemsResponse(items=items, matching=found.num_matching, release=release.id)

        return reply(await self._search(find))

    async def _search(self, work: Callable[[LoadedRelease, ItemFinder], T]) -> T:
        """The result of a search of the current release on a thread. One search runs at a time, so they take a core at most."""
        release = self._context.served.current

        async def run() -> T:
            async with self._turn:
                return await asyncio.to_thread(lambda: work(release, self._finders.of(release)))

        return await self._context.deadlines.within("find", run(), self._context.deadlines.from_now())


def _catalogue(release: LoadedRelease, finder: ItemFinder) -> CatalogueResponse:
    return CatalogueResponse(
        release=release.id,
        items=int(release.listed().sum()),
        title=finder.title,
        group=finder.group,
        groups=[CatalogueGroup(name=name, items=size) for name, size in finder.group_sizes(release)],
        features=[CatalogueFeature(name=name, kind=kind, values=values) for name, kind, values in finder.features],
        popularity_as_of=release.info.popularity_as_of_ms,
    )
