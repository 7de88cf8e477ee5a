"""The client's rankings: what comes next, search results, sections, and items like another one."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import xxhash
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.api.schemas import AboutUser, Event, Recommended, RecommendRequest, SimilarRequest
from service.behaviorgpt.bodies import (
    MAX_PLACE,
    ClientItem,
    Products,
    RankingAnswer,
    RankingBody,
    Section,
    SectionsAnswer,
    SectionsBody,
    SimilarBody,
)
from service.behaviorgpt.events import EventTypes, events_of, num_known, stored_form
from service.behaviorgpt.filters import expression_of
from service.behaviorgpt.refusals import Access, as_bad_request, checking
from service.behaviorgpt.sections import Named, sections_of
from service.histories.history import StoredEvent
from service.http.route_table import Route
from service.routes.asking import ask_release
from service.routes.context import Context, now_ms
from service.uploads.releases import CatalogueReleases, Target, named, own_id
from twotower.tables.ids import MAX_ID_BYTES

B = TypeVar("B")

GROUPED = 500  # items at the top of a ranking that sections are made from
_ranking = msgspec.json.Decoder(RankingBody)
_sections = msgspec.json.Decoder(SectionsBody)
_similar = msgspec.json.Decoder(SimilarBody)


class RankingRoutes:
    """Handlers of POST /v1/vector/..."""

    def __init__(self, context: Context, releases: CatalogueReleases, served_id: str, types: EventTypes, access: Access) -> None:
        self._context, self._releases, self._served_id, self._types, self._access = context, releases, served_id, types, access

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        ranked = {"takes": RankingBody, "gives": RankingAnswer}
        return (
            _route("recommendations", self.rank, **ranked),
            _route("search", self.rank, **ranked),
            _route("sections", self.sections, takes=SectionsBody, gives=SectionsAnswer),
            _route("similar_products", self.similar, takes=SimilarBody, gives=RankingAnswer),
        )

    async def rank(self, request: Request) -> Response:
        """POST /v1/vector/recommendations and /v1/vector/search: one page of the items that come next."""
        started_s = time.monotonic()
        body = await self._context.body(request, _ranking)
        last = _last_place(body.offset, body.limit)
        target, items = await self._ranked(request, body, last, started_s)
        return self._page(target, items[body.offset :], body.offset, body.limit)

    async def sections(self, request: Request) -> Response:
        """POST /v1/vector/sections: the top of the ranking in sections."""
        started_s = time.monotonic()
        body = await self._context.body(request, _sections)
        target, items = await self._ranked(request, body, GROUPED, started_s)
        shown = self._shown(target, items)
        told = [Named(str(item.data.get("name") or ""), _path(item.data.get("categories"))) for item in shown]
        sizes = body.max_sections, body.max_products_per_section, body.min_products_per_section
        groups = await asyncio.to_thread(sections_of, told, *sizes)  # names of many words take a while
        made = [Section(title=group.title, products=[shown[place] for place in group.places]) for group in groups]
        return self._context.encoded(SectionsAnswer(made))

    async def similar(self, request: Request) -> Response:
        """POST /v1/vector/similar_products: one page of the items like another one."""
        started_s = time.monotonic()
        body = await self._context.body(request, _similar)
        last = _last_place(body.offset, body.limit)
        catalogues = self._catalogues(request, body.store_id)
        target = await self._releases.target(catalogues, AboutUser())
        item_id = own_id(body.store_id or catalogues[0], body.product_id, self._served_id)
        with checking():
            about = SimilarRequest(item_id=item_id, num_results=last, filter=self._filter(target, body.filters))
        try:
            answer = await ask_release(self._context, target.chosen, about, started_s, self._context.calls.similar)
        except ApiError as error:
            if error.code == "not_found":
                error = ApiError("not_found", f"the catalogue has no item {body.product_id!r}")
            raise error from None
        return self._page(target, answer.result.items[body.offset :], body.offset, body.limit)

    async def _ranked(
        self, request: Request, body: RankingBody, num_results: int, started_s: float
    ) -> tuple[Target, list[Recommended]]:
        """The best items for a body, and where they come from."""
        with checking():
            user = AboutUser(user_id=user_of(body.user_id))
        target = await self._releases.target(self._catalogues(request, body.store_id), user)
        sent = self._events(body, target)
        # What is stored must be known before more is: else the same events would be stored again.
        reading = msgspec.structs.replace(user, strict=body.register_event and bool(sent))
        known = await self._context.histories.read(reading, self._context.deadlines.of(started_s, None))
        first = num_known(known[0].events if known[0] else (), sent)
        with checking():
            about = RecommendRequest(
                user_id=user.user_id,
                events=sent[first:],  # also those that are stored now: they count as if they had been before
                target_event_type=self._types.order if body.type and body.type.name == "buy_next" else self._types.view,
                timestamp=body.timestamp,
                num_results=num_results,
                filter=self._filter(target, body.filters),
            )
        if body.register_event and user.user_id and about.events:
            await self._store(stored_form(user.user_id, body, sent, first))
        answer = await ask_release(self._context, target.chosen, about, started_s, self._context.calls.recommend, known)
        ranking = answer.result
        self._context.count_answer(answer.degraded + ranking.degraded, len(ranking.missing_item_ids), bool(ranking.items))
        return target, ranking.items

    def _events(self, body: RankingBody, target: Target) -> list[Event]:
        """The events of a body."""
        known = target.catalog_ids

        def qualify(catalog_id: str | None, item: str) -> str:
            return own_id(catalog_id if catalog_id in known else known[0], item, self._served_id)

        return events_of(body, self._types, target.chosen.release.towers.schema.events, qualify, now_ms())

    async def _store(self, events: list[StoredEvent]) -> None:
        self._access.require("events:write")
        histories = self._context.histories
        accepted = sum(await histories.confirmed("append", histories.store.append(events)))
        self._context.metrics.events.labels("accepted").inc(accepted)

    def _catalogues(self, request: Request, store_id: str | None) -> tuple[str, ...]:
        """The catalogues that a request names: in one of two headers, or else in its body."""
        several = request.headers.get("x-catalog-ids", "")
        one = request.headers.get("x-catalog-id") or store_id or self._served_id
        return tuple(filter(None, map(str.strip, several.split(",")))) or (one,)

    def _filter(self, target: Target, filters: Mapping[str, Any]) -> str | None:
        return expression_of(filters, target.chosen.release.items.schema, target.features_of, target.catalog_ids)

    def _page(self, target: Target, items: Sequence[Recommended], offset: int, limit: int) -> Response:
        products = Products(items=self._shown(target, items), offset=offset, limit=limit)
        return self._context.encoded(RankingAnswer(products))

    def _shown(self, target: Target, items: Sequence[Recommended]) -> list[ClientItem]:
        """Items as the client reads them."""
        data = target.data([item.item_id for item in items], self._served_id)
        ids = [named(item.item_id, self._served_id) for item in items]
        return [
            ClientItem(id=item_id, score=item.score, data=row, store_id=catalog_id)
            for item, row, (catalog_id, item_id) in zip(items, data, ids, strict=True)
        ]


def user_of(user_id: str | None) -> str | None:
    """Our id of a user. The client's may be longer than ours: then it is a hash."""
    if user_id is None or len(user_id.encode()) <= MAX_ID_BYTES:
        return user_id
    return f"xxh128-{xxhash.xxh3_128_hexdigest(user_id.encode())}"


def _last_place(offset: int, limit: int) -> int:
    if offset + limit > MAX_PLACE:
        raise ApiError("bad_request", f"offset + limit is {offset + limit:,}, and may be at most {MAX_PLACE:,}", "offset")
    return offset + limit


def _path(categories: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in categories.split(",") if part.strip()) if isinstance(categories, str) else ()


def _route(name: str, handler: Any, **types: Any) -> Route:
    return Route("POST", (f"/v1/vector/{name}",), as_bad_request(handler), scope="recommend", **types)
