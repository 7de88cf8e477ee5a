"""The parts put together: one ASGI application around one release and one history store."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import starlette.routing
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from service.delta import ItemChanges
from service.engine import Engine
from service.errors import ApiError
from service.front import Front
from service.history import HistoryStore
from service.index import LoadedRelease
from service.keys import KeyRing
from service.logs import RequestLog
from service.metrics import Metrics
from service.openapi import document
from service.route_table import Route, RouteTable
from service.routes import Service
from service.settings import Settings
from service.tracing import open_traces
from service.wire import refuse
from twotower.delta import DeltaStore

VERSION = "1"
# FastAPI's own: `None` for a handler leaves them to it.
DOCUMENTATION = Route("GET", ("/docs", "/openapi.json"), scope="open", private=True)


def build_app(
    settings: Settings, release: LoadedRelease, history: HistoryStore, metrics: Metrics, delta: DeltaStore | None = None
) -> Front:
    """The application. Its lifespan owns the engine's thread and closes the stores; without `delta` items cannot be changed."""
    changes = ItemChanges(delta, release, settings.max_delta_items) if delta else None
    service = Service(settings, release, history, Engine(settings.torch_threads, settings.max_queued), metrics, changes)
    keys = KeyRing(settings.keys, metrics) if settings.keys else None
    traces = open_traces(settings.otlp) if settings.otlp else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        watch = asyncio.create_task(keys.watch()) if keys else None
        try:
            await service.restore()
            yield
        finally:
            if watch:
                watch.cancel()
            service.engine.close()
            await service.history.close()
            if changes:
                await changes.close()
            if traces:
                await asyncio.to_thread(traces.close)

    # Bodies are decoded by msgspec in plain routes: FastAPI is here for /docs and for what comes to stand on it.
    app = FastAPI(lifespan=lifespan, redoc_url=None, redirect_slashes=False, swagger_ui_oauth2_redirect_url=None)
    table = add_routes(app, service)
    for error in (ApiError, HTTPException, Exception):
        app.add_exception_handler(error, refuse_async)
    observe(service)
    log = RequestLog(settings.log_hash_key.get_secret_value() if settings.log_hash_key else None)
    return Front(app, table, settings, metrics, keys, [log, *([traces] if traces else [])])


def add_routes(app: FastAPI, service: Service) -> RouteTable:
    """Every route under its name and its aliases, and the document that describes them."""
    routes = service.routes()
    for route in routes:
        if route.handler:
            made = [starlette.routing.Route(path, route.handler, methods=[route.method]) for path in route.paths]
            app.router.routes.extend(map(whole, made))
    described = document(routes, VERSION)
    app.openapi = lambda: described  # type: ignore[method-assign] # FastAPI's own way to replace its document
    return RouteTable([*routes, DOCUMENTATION])


def whole(route: starlette.routing.Route) -> starlette.routing.Route:
    """The route, with a path whose last part may hold line breaks: an id may be any text."""
    route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)
    return route


async def refuse_async(request: Any, error: Exception) -> Any:
    """`refuse` as Starlette calls it: a plain function would be sent to a thread."""
    return refuse(request, error)


def observe(service: Service) -> None:
    """Gauges that are read when scraped."""
    service.metrics.heartbeat_age.set_function(lambda: service.engine.heartbeat_age_s)
    service.metrics.queue_depth.set_function(lambda: service.engine.num_queued)
    service.metrics.delta_items.labels("put").set_function(lambda: service.num_changed[0])
    service.metrics.delta_items.labels("deleted").set_function(lambda: service.num_changed[1])
    service.metrics.release.labels(service.release.id, service.release.info.vector_space_id).set(1)
    service.metrics.release_loaded.set(time.time())
