"""The routes of items: they read an item, and change items between two runs of the nightly job."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.errors import ApiError
from service.api.items import DeleteItemsBody, DeleteItemsRequest, ItemResponse, ItemsResponse, PutItemsBody, PutItemsRequest
from service.http.messages import path_id, reply
from service.http.route_table import Route
from service.release.changes import ItemChanges, validate_ids
from service.release.loaded import LoadedRelease
from service.routes.context import Context
from twotower.data.json_values import json_rows
from twotower.model.catalogue import ID_FIELD

_put = msgspec.json.Decoder(PutItemsBody)
_delete = msgspec.json.Decoder(DeleteItemsBody)


class ItemRoutes:
    """Handlers of the routes of items."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        return (
            Route("PUT", ("/v1/items",), self.put, takes=PutItemsRequest, gives=ItemsResponse, scope="admin"),
            Route("DELETE", ("/v1/items",), self.delete, takes=DeleteItemsRequest, gives=ItemsResponse, scope="admin"),
            Route("GET", ("/v1/items/{item_id:path}",), self.get, gives=ItemResponse, scope="recommend"),
        )

    async def put(self, request: Request) -> Response:
        """PUT /v1/items: items that the answer counts as accepted are stored, and served from the next request on."""
        body = await self._context.body(request, _put, "items")
        rejected = await asyncio.shield(self._context.served.put_items(self._changes(), body.items, self._compute()))
        return self._changed("put", len(body.items), rejected)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/items: ids that the answer counts as accepted are stored as removed, and no longer served."""
        body = await self._context.body(request, _delete, "item_ids")
        item_ids, rejected = validate_ids(body.item_ids)
        await asyncio.shield(self._context.served.delete_items(self._changes(), item_ids, self._compute()))
        return self._changed("delete", len(body.item_ids), rejected)

    async def get(self, request: Request) -> Response:
        """GET /v1/items/{id}: an item of the current release, with item changes."""
        item_id, release = path_id(request, "item_id"), self._context.served.current
        if item_id not in release.rows:
            raise ApiError("not_found", f"the catalogue has no item {item_id!r}")
        row = release.rows[item_id]
        (metadata,) = json_rows(release.items.slice(row, 1).drop_columns([ID_FIELD]))
        source: Literal["release", "delta"] = "release" if row < len(release.vectors_NV) else "delta"
        return reply(ItemResponse(item_id=item_id, source=source, metadata=metadata, release=release.id))

    def _changes(self) -> ItemChanges:
        if self._context.served.changes is None:
            raise ApiError(
                "delta_off",
                "this server has no file for item changes: start it with --delta sqlite:///FILE, or give the nightly job the "
                "items. Servers that share their histories in Redis cannot share such a file.",
            )
        return self._context.served.changes

    def _compute(self) -> Callable[[Callable[[], LoadedRelease]], Awaitable[LoadedRelease]]:
        """Run work on the engine's thread. All work of one change has one deadline."""
        return partial(self._context.calls.alone, deadline_s=self._context.deadlines.from_now())

    def _changed(self, method: str, num_received: int, rejected: list[schemas.Rejected]) -> Response:
        accepted = num_received - len(rejected)
        self._context.metrics.item_changes.labels(method, "accepted").inc(accepted)
        self._context.metrics.item_changes.labels(method, "rejected").inc(len(rejected))
        return reply(ItemsResponse(accepted=accepted, rejected=rejected))
