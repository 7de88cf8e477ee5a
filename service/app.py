"""The parts put together: one ASGI application around one release and one history store."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import starlette.routing
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from service.api.errors import ApiError
from service.engine.remote import RemoteEngine, setup_of
from service.engine.thread import Engine, Limits
from service.histories.history import HistoryStore
from service.http.front import Front
from service.http.keys import KeyRing
from service.http.messages import refuse
from service.http.openapi import document
from service.http.route_table import Route, RouteTable
from service.release.changes import ItemChanges
from service.release.loaded import LoadedRelease
from service.release.source import source_of
from service.rollout.follow import Follower, show
from service.rollout.pinned import pinned_releases
from service.rollout.shadow import compare_forever
from service.rollout.variants import Plan, Variants, load_plan
from service.routes.admin import Admin
from service.routes.context import Service
from service.routes.items import ItemRoutes
from service.routes.recommend import Routes
from service.settings import Settings
from service.telemetry.logs import RequestLog
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import open_traces
from twotower.artefacts.item_changes import DeltaStore

VERSION = "1"
# FastAPI's own: `None` for a handler leaves them to it.
DOCUMENTATION = Route("GET", ("/docs", "/openapi.json"), scope="open", private=True)


def build_app(
    settings: Settings, release: LoadedRelease, history: HistoryStore, metrics: Metrics, delta: DeltaStore | None = None
) -> Front:
    """The application. Its lifespan owns the engine's thread and closes the stores; without `delta` items cannot be changed."""
    changes = ItemChanges(delta, settings.max_delta_items) if delta else None
    limits = Limits(settings.batch_requests, settings.batch_tokens, settings.max_queued, settings.max_wait_s)
    source = source_of(settings)
    remote = RemoteEngine(setup_of(settings, source.store.local), limits) if settings.engine == "process" else None
    engine = remote or Engine(settings.torch_threads, limits)
    variants = Variants(load_plan(settings.variants) if settings.variants else Plan(), metrics)
    others = pinned_releases(source, variants.plan, release)
    service = Service(settings, release, history, engine, metrics, variants, changes, others)
    if remote:
        service.keeping = remote.keeping
    follower = Follower(service, source)
    keys = KeyRing(settings.keys, metrics) if settings.keys else None
    traces = open_traces(settings.otlp) if settings.otlp else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        watch = asyncio.create_task(keys.watch()) if keys else None
        try:
            for served in (service.release, *service.others.values()):
                await service.engine.load(served)
            await service.restore()
            follower.start()
            comparing = asyncio.create_task(compare_forever(service))
            yield
            comparing.cancel()
            await asyncio.wait([comparing])
        finally:
            await follower.close()
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
    app.state.service = service  # for the process that runs it
    parts = (Routes(service), ItemRoutes(service), Admin(service, source, follower))
    table = add_routes(app, [route for part in parts for route in part.routes()])
    for error in (ApiError, HTTPException, Exception):
        app.add_exception_handler(error, refuse_async)
    observe(service)
    log = RequestLog(settings.log_hash_key.get_secret_value() if settings.log_hash_key else None)
    return Front(app, table, settings, metrics, keys, [log, *([traces] if traces else [])], lambda: service.is_busy)


def add_routes(app: FastAPI, routes: Sequence[Route]) -> RouteTable:
    """Every route under its name and its aliases, and the document that describes them."""
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
    service.metrics.queue_tokens.set_function(lambda: service.engine.queued_cost)
    service.engine.on_batch = service.metrics.count_batch
    for outcome in ("hits", "misses", "evictions", "verified", "failures"):
        service.metrics.user_cache.labels(outcome).set_function(partial(getattr, service.keeping, outcome))
    service.metrics.user_cache_bytes.set_function(lambda: service.release.users.num_bytes)
    service.metrics.user_cache_error.set_function(lambda: service.keeping.max_error)
    service.metrics.delta_items.labels("put").set_function(lambda: service.num_changed[0])
    service.metrics.delta_items.labels("deleted").set_function(lambda: service.num_changed[1])
    show(service)
