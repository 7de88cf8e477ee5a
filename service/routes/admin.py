"""The routes for operators: they list releases and move the store's pointer, which all servers of the store follow."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api import releases as release_schemas
from service.api.errors import ApiError
from service.http.messages import check_media_type, read_json, reply
from service.http.route_table import Route
from service.model.cpu_dtype import name_of
from service.release.source import ReleaseSource
from service.rollout.follow import Follower
from service.routes.context import Context
from service.routes.listings import release_entries, trial_report
from twotower.artefacts.release import Pointer, activate, roll_back
from twotower.errors import ArtefactError, StoreError

_log = logging.getLogger("twotower.rollout")
_activate = msgspec.json.Decoder(release_schemas.ActivateRequest)


class Admin:
    """Handlers of the operators' routes."""

    def __init__(self, context: Context, source: ReleaseSource, follower: Follower) -> None:
        self._context, self._source, self._follower = context, source, follower

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers, all private."""
        takes, moved = release_schemas.ActivateRequest, release_schemas.PointerResponse
        listed, refreshed = release_schemas.ReleasesResponse, release_schemas.RefreshResponse
        return (
            Route("GET", ("/v1/releases",), self.releases, gives=listed, scope="admin", private=True),
            Route("POST", ("/v1/admin/activate",), self.activate, takes=takes, gives=moved, scope="admin", private=True),
            Route("POST", ("/v1/admin/rollback",), self.roll_back, gives=moved, scope="admin", private=True),
            Route("POST", ("/v1/admin/refresh",), self.refresh, gives=refreshed, scope="admin", private=True),
        )

    async def releases(self, _: Request) -> Response:
        """GET /v1/releases: the releases of the store, and which of them this server uses."""
        previous, now = self._follower.previous, self._context.served.now
        response = release_schemas.ReleasesResponse(
            serving=now.current.id,
            previous=previous.id if previous else None,
            canary=now.trial.release if now.trial else None,
            trial=trial_report(now.trial) if now.trial else None,
            cpu_dtype=name_of(now.current.dtype),
            quarantined=dict(self._follower.quarantined),
            releases=await asyncio.to_thread(release_entries, self._source.store.local),
        )
        return reply(response)

    async def activate(self, request: Request) -> Response:
        """POST /v1/admin/activate: point the store's pointer at a release."""
        body = await read_json(request, _activate, self._context.settings)
        store = self._source.store
        if body.release not in await asyncio.to_thread(store.releases):
            raise ApiError("not_found", f"the store has no release {body.release!r}; see /v1/releases", "release")
        return await self._point(partial(activate, store, body.release, self._source.signed_by))

    async def roll_back(self, request: Request) -> Response:
        """POST /v1/admin/rollback: point the store's pointer at the release before."""
        check_media_type(dict(request.scope["headers"]))  # JSON: a browser sends this from another site only with our permission
        return await self._point(partial(roll_back, self._source.store, self._source.signed_by))

    async def refresh(self, _: Request) -> Response:
        """POST /v1/admin/refresh: look at the pointer now, follow it if possible, and then answer."""
        outcome = await self._follower.look()
        return reply(release_schemas.RefreshResponse(outcome=outcome, serving=self._context.served.current.id))

    async def _point(self, move: Callable[[], Pointer]) -> Response:
        try:
            pointer = await asyncio.to_thread(move)
        except (StoreError, ArtefactError) as error:
            _log.warning("the pointer stays where it is: %s", error)  # not sent to the caller, because it may name our paths
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
