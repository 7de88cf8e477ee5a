"""What an operator asks of a server: its releases, and to move the store's pointer, which all servers of the store follow."""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api import releases as release_schemas
from service.api.errors import ApiError
from service.http.messages import check_media_type, read_json, reply
from service.http.route_table import Route
from service.release.source import Source
from service.rollout.follow import Follower
from service.routes.context import Service
from service.routes.listings import release_entries
from twotower.artefacts.release import Pointer, activate, roll_back
from twotower.errors import ArtefactError, StoreError
from twotower.progress import say

_activate = msgspec.json.Decoder(release_schemas.ActivateRequest)


class Admin:
    """The handlers."""

    def __init__(self, service: Service, source: Source, follower: Follower) -> None:
        self._service, self._source, self._follower = service, source, follower

    def routes(self) -> tuple[Route, ...]:
        """Every route of an operator's."""
        takes, moved = release_schemas.ActivateRequest, release_schemas.PointerResponse
        listed, refreshed = release_schemas.ReleasesResponse, release_schemas.RefreshResponse
        return (
            Route("GET", ("/v1/releases",), self.releases, None, listed, scope="admin", private=True),
            Route("POST", ("/v1/admin/activate",), self.activate, takes, moved, scope="admin", private=True),
            Route("POST", ("/v1/admin/rollback",), self.roll_back, None, moved, scope="admin", private=True),
            Route("POST", ("/v1/admin/refresh",), self.refresh, None, refreshed, scope="admin", private=True),
        )

    async def releases(self, _: Request) -> Response:
        """GET /v1/releases."""
        kept, trial = self._follower.kept, self._service.variants.trial
        response = release_schemas.ReleasesResponse(
            serving=self._service.release.id,
            previous=kept.id if kept else None,
            canary=trial.release if trial else None,
            quarantined=dict(self._follower.quarantined),
            releases=await asyncio.to_thread(release_entries, self._source.store.local),
        )
        return reply(response)

    async def activate(self, request: Request) -> Response:
        """POST /v1/admin/activate."""
        asked = await read_json(request, _activate, self._service.settings)
        store = self._source.store
        if asked.release not in await asyncio.to_thread(store.releases):
            raise ApiError("not_found", f"the store has no release {asked.release!r}; see /v1/releases", "release")
        return await self._point(partial(activate, store, asked.release, self._source.signed_by))

    async def roll_back(self, request: Request) -> Response:
        """POST /v1/admin/rollback."""
        check_media_type(dict(request.scope["headers"]))  # which no foreign web page can send without asking first
        return await self._point(partial(roll_back, self._source.store, self._source.signed_by))

    async def refresh(self, _: Request) -> Response:
        """POST /v1/admin/refresh: answers once the pointer was looked at, and followed where that can be done."""
        outcome = await self._follower.look()
        return reply(release_schemas.RefreshResponse(outcome=outcome, serving=self._service.release.id))

    async def _point(self, move: Callable[[], Pointer]) -> Response:
        try:
            pointer = await asyncio.to_thread(move)
        except (StoreError, ArtefactError) as error:
            say(f"WARNING: the pointer stays where it is: {error}")  # which names places of ours, and is not for the caller
            raise ApiError("conflict", _WHY_NOT[isinstance(error, StoreError)]) from error
        self._follower.hurry()
        return reply(
            release_schemas.PointerResponse(sequence=pointer.sequence, release=pointer.release, previous=pointer.previous)
        )


_WHY_NOT = {
    True: "the pointer was moved by someone else meanwhile, there is nothing to go back to, or the store cannot be written; see "
    "GET /v1/releases and the server's log",
    False: "the release is damaged or not signed by the right key, and the pointer stays where it is; see the server's log",
}
