"""The parts put together: one ASGI application around one release and one history store."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from service.delta import ItemChanges
from service.engine import Engine, Limits
from service.errors import ApiError
from service.history import HistoryStore
from service.index import LoadedRelease
from service.metrics import Metrics
from service.openapi import document
from service.routes import Service
from service.settings import Settings
from service.wire import RequestScope, refuse
from twotower.delta import DeltaStore

VERSION = "1"


def build_app(
    settings: Settings, release: LoadedRelease, history: HistoryStore, metrics: Metrics, delta: DeltaStore | None = None
) -> FastAPI:
    """The application. Its lifespan owns the engine's thread and closes the stores; without `delta` items cannot be changed."""
    changes = ItemChanges(delta, release, settings.max_delta_items) if delta else None
    limits = Limits(settings.batch_requests, settings.batch_tokens, settings.max_queued, settings.max_wait_s)
    service = Service(settings, release, history, Engine(settings.torch_threads, limits), metrics, changes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            await service.restore()
            yield
        finally:
            service.engine.close()
            await service.history.close()
            if changes:
                await changes.close()

    # Bodies are decoded by msgspec in plain routes: FastAPI is here for /docs and for what comes to stand on it.
    app = FastAPI(lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    add_routes(app, service)
    for error in (ApiError, HTTPException, Exception):
        app.add_exception_handler(error, refuse_async)
    observe(service)
    return app


def add_routes(app: FastAPI, service: Service) -> None:
    """Every route under its name and its aliases, the document that describes them, and what wraps them."""
    routes = service.routes()
    for route in routes:
        for path in route.paths:
            app.add_route(path, route.handler, methods=[route.method], include_in_schema=False)
    described = document(routes, VERSION)
    app.openapi = lambda: described  # type: ignore[method-assign] # FastAPI's own way to replace its document
    names = {route.handler: route.paths[0] for route in routes}

    def label(endpoint: Any) -> str:
        return names.get(endpoint, "other")

    app.add_middleware(RequestScope, metrics=service.metrics, label=label)


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
