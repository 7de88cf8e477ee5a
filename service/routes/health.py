"""The routes for load balancers, process supervisors and Prometheus."""

from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.errors import ApiError
from service.http.messages import reply
from service.http.route_table import Route
from service.routes.context import Context


class HealthRoutes:
    """Handlers of /livez, /readyz and /metrics."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        return (
            Route("GET", ("/livez",), self.live, gives=schemas.HealthResponse, scope="open"),
            Route("GET", ("/readyz",), self.ready, gives=schemas.HealthResponse, scope="open"),
            Route("GET", ("/metrics",), self.exposition, scope="metrics", private=True),
        )

    async def live(self, request: Request) -> Response:
        """GET /livez: 503 when the engine is stuck or has ended and the process should be restarted. A busy engine is alive."""
        if trouble := self._context.readiness.trouble():
            raise ApiError("not_ready", trouble)
        if not request.scope["state"]["private"]:
            return reply(schemas.HealthResponse(status="ok"))
        age_s = round(self._context.engine.heartbeat_age_s, 3)
        return reply(schemas.HealthResponse(status="ok", release=self._context.served.current.id, heartbeat_age_s=age_s))

    async def ready(self, request: Request) -> Response:
        """GET /readyz: 503 when the server is shutting down or has lost its engine.

        No answer for loading is needed, because the server does not listen before its first release is loaded.
        """
        if self._context.readiness.leaving:
            raise ApiError("not_ready", self._context.readiness.leaving)
        return await self.live(request)

    async def exposition(self, _: Request) -> Response:
        """GET /metrics: all metrics in the text format of Prometheus."""
        return Response(generate_latest(self._context.metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")
