"""The routes of the map of the catalogue: the map as a whole, and items and points of it."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.api.maps import MapPoint, MapPointsRequest, MapPointsResponse
from service.http.assets import takes_gzip
from service.http.route_table import Route
from service.release.loaded import LoadedRelease
from service.release.served_map import ServedMap
from service.routes.context import Context

MEDIA_TYPE = "application/vnd.twotower.map"
_points = msgspec.json.Decoder(MapPointsRequest)


class MapRoutes:
    """Handlers of the routes of the map."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        asks, gives = MapPointsRequest, MapPointsResponse
        return (
            Route("GET", ("/v1/map",), self.map, scope="recommend"),
            Route("POST", ("/v1/map/points",), self.points, takes=asks, gives=gives, scope="recommend"),
        )

    async def map(self, request: Request) -> Response:
        """GET /v1/map: the map of the current release, compressed if the client takes that; 304 if the client has it."""
        release, headers = self._context.served.current, dict(request.scope["headers"])
        found = map_of(release)
        # A weak tag: the compressed map is the same one.
        named = {"etag": f'W/"{release.id}"', "cache-control": "no-cache", "vary": "accept-encoding"}
        if f'"{release.id}"'.encode() in headers.get(b"if-none-match", b""):
            return Response(status_code=304, headers=named)
        if takes_gzip(headers):
            return Response(found.compressed, headers=named | {"content-encoding": "gzip"}, media_type=MEDIA_TYPE)
        return Response(found.body, headers=named, media_type=MEDIA_TYPE)

    async def points(self, request: Request) -> Response:
        """POST /v1/map/points: ids and titles of points, and the points of items."""
        body = await self._context.body(request, _points)
        release = self._context.served.current
        found = map_of(release)
        rows = {point: int(found.rows_M[point]) for point in body.points if point < len(found.rows_M)}
        for item_id in body.item_ids:
            row = release.base.rows.get(item_id)
            if row is not None and (point := found.point(row)) is not None:
                rows.setdefault(point, row)
        points = [told for point, row in rows.items() if (told := _told(release, point, row))]
        return self._context.encoded(MapPointsResponse(points=points, release=release.id))


def map_of(release: LoadedRelease) -> ServedMap:
    """The map of a release; ApiError not_found when it has none."""
    if release.item_map is None:
        raise ApiError("not_found", f"{release.id} has no map of the catalogue: build one with `twotower embed --map`")
    return release.item_map


def _told(release: LoadedRelease, point: int, row: int) -> MapPoint | None:
    """The item at a point as it is served now; None when it was deleted."""
    item_id = release.item_ids[row]
    now = release.rows.get(item_id)
    if now is None:
        return None
    column = release.towers.schema.items.title
    title = None if column is None else release.items.column(column)[now].as_py()
    return MapPoint(point=point, item_id=item_id, title=None if title is None else str(title))
