"""The routes of items: what the catalogue holds, and changes between two nights."""

import asyncio
import time
from functools import partial
from typing import Literal

import msgspec
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.errors import ApiError
from service.api.items import DeleteItemsBody, DeleteItemsRequest, ItemResponse, ItemsResponse, PutItemsBody, PutItemsRequest
from service.http.messages import path_id, reply
from service.http.route_table import Route
from service.release.changes import ItemChanges, caught_up, judge_ids
from service.routes.context import Service
from twotower.artefacts.item_changes import Changed
from twotower.model.catalogue import ID_FIELD

_put = msgspec.json.Decoder(PutItemsBody)
_delete = msgspec.json.Decoder(DeleteItemsBody)


class ItemRoutes:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> tuple[Route, ...]:
        """Every route of items."""
        return (
            Route("PUT", ("/v1/items",), self.put, PutItemsRequest, ItemsResponse, scope="admin"),
            Route("DELETE", ("/v1/items",), self.delete, DeleteItemsRequest, ItemsResponse, scope="admin"),
            Route("GET", ("/v1/items/{item_id:path}",), self.get, None, ItemResponse, scope="recommend"),
        )

    async def put(self, request: Request) -> Response:
        """PUT /v1/items: what is counted as accepted is stored, and served from the next request on."""
        body = await self._service.body(request, _put)
        rejected = await asyncio.shield(self.put_all(self._changes(), body.items))
        return self._changed("put", len(body.items), rejected)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/items."""
        body = await self._service.body(request, _delete)
        item_ids, rejected = judge_ids(body.item_ids)
        await asyncio.shield(self.delete_all(self._changes(), item_ids))
        return self._changed("delete", len(body.item_ids), rejected)

    async def get(self, request: Request) -> Response:
        """GET /v1/items/{id}."""
        item_id, release = path_id(request, "item_id"), self._service.release
        if item_id not in release.rows:
            raise ApiError("not_found", f"the catalogue has no item {item_id!r}")
        row = release.rows[item_id]
        (metadata,) = release.items.slice(row, 1).drop_columns([ID_FIELD]).to_pylist()
        source: Literal["release", "delta"] = "release" if row < len(release.vectors_NV) else "delta"
        return reply(ItemResponse(item_id=item_id, source=source, metadata=metadata, release=release.id))

    def _changes(self) -> ItemChanges:
        if self._service.changes is None:
            raise ApiError(
                "delta_off",
                "this server has no file for item changes: start it with --delta sqlite:///FILE, or give the nightly job the "
                "items. Servers that share their histories in Redis share no such file.",
            )
        return self._service.changes

    async def put_all(self, changes: ItemChanges, raw_items: list[msgspec.Raw]) -> list[schemas.Rejected]:
        """Store and serve those that can be; why others cannot."""
        async with changes.one_at_a_time:
            items, rows, rejected = await changes.judge(self._service.release.base, raw_items)
            await self._change(changes, items, rows)
        return rejected

    async def delete_all(self, changes: ItemChanges, item_ids: list[str]) -> None:
        """Take items out."""
        async with changes.one_at_a_time:
            await self._change(changes, dict.fromkeys(item_ids), self._service.release.base.items.schema.empty_table())

    async def _change(self, changes: ItemChanges, items: Changed, put: pa.Table) -> None:
        """Embed, store, and only then serve, in every release that answers."""
        if not items:
            return
        deadline_s = time.monotonic() + self._service.settings.request_timeout_s
        result = await self._service.compute(partial(changes.apply, self._service.release, items, put), deadline_s)
        others = {
            name: await self._service.compute(partial(caught_up, r, items), deadline_s)
            for name, r in self._service.others.items()
        }
        await changes.write(items)
        # A trial may have ended meanwhile: its release must not come back.
        self._service.release = result
        self._service.others = {name: others.get(name, release) for name, release in self._service.others.items()}

    def _changed(self, method: str, num_asked: int, rejected: list[schemas.Rejected]) -> Response:
        accepted = num_asked - len(rejected)
        self._service.metrics.item_changes.labels(method, "accepted").inc(accepted)
        self._service.metrics.item_changes.labels(method, "rejected").inc(len(rejected))
        return reply(ItemsResponse(accepted=accepted, rejected=rejected))
