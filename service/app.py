"""Puts the parts of a server together to one application, around one release and one history store."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from service.behaviorgpt.adapter import make_adapter
from service.engine.admission import Admission
from service.engine.calls import ModelCalls
from service.engine.remote import RemoteEngine, setup_of
from service.engine.thread import Engine, Limits
from service.histories.history import HistoryStore
from service.histories.reading import HistoryReader
from service.http.front import Front
from service.http.keys import KeyRing
from service.http.openapi import document
from service.http.route_table import RouteTable
from service.model.cpu_dtype import name_of
from service.process.readiness import Readiness
from service.release.changes import ItemChanges
from service.release.loaded import LoadedRelease
from service.release.source import ReleaseSource, source_of
from service.rollout.canary import CanaryJudge
from service.rollout.follow import Follower
from service.rollout.follow_ups import FollowUps
from service.rollout.loading import ReleaseLoader, warm
from service.rollout.pinned import keep_marked, pinned_releases
from service.rollout.plan import Plan, load_plan
from service.rollout.served import ServedReleases
from service.rollout.shadow import Comparisons
from service.rollout.swap import Swapper, show
from service.routes.admin import Admin
from service.routes.catalogue import CatalogueRoutes
from service.routes.context import Context
from service.routes.events import EventRoutes
from service.routes.health import HealthRoutes
from service.routes.items import ItemRoutes
from service.routes.map import MapRoutes
from service.routes.pages import PageRoutes
from service.routes.plans import PlanRoutes
from service.routes.recommend import RecommendRoutes
from service.routes.scores import ScoreRoutes
from service.routes.users import UserRoutes
from service.settings import Settings
from service.states.cache import UserCache
from service.telemetry.deadlines import Deadlines
from service.telemetry.logs import RequestLog
from service.telemetry.loop_lag import measure_lag
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RECORD, RequestRecord
from service.telemetry.tracing import open_traces
from twotower.artefacts.item_changes import DeltaStore
from twotower.memory import available_bytes

VERSION = "1"


@dataclass(frozen=True, slots=True)
class Application:
    """A server ready to run: the ASGI application, its parts, and the follower of the store's pointer."""

    asgi: Front
    fastapi: FastAPI
    context: Context
    follower: Follower
    cache: UserCache


def build_app(
    settings: Settings, release: LoadedRelease, history: HistoryStore, metrics: Metrics, delta: DeltaStore | None = None
) -> Application:
    """Make the application. Its lifespan starts and stops the engine, and closes the stores at the end.

    Without `delta`, items cannot be changed.
    """
    source = source_of(settings)
    engine, cache = make_engine(settings, source)
    deadlines = Deadlines(metrics, settings.request_timeout_s)
    admission = Admission(engine, metrics)
    calls = ModelCalls(engine, admission, deadlines, cache)
    plan = load_plan(settings.variants) if settings.variants else Plan()
    changes = ItemChanges(delta, settings.max_delta_items) if delta else None
    served = ServedReleases(release, plan, changes, pinned_releases(source, plan, release), calls.hand_over)
    context = Context(
        settings=settings,
        metrics=metrics,
        engine=engine,
        admission=admission,
        calls=calls,
        deadlines=deadlines,
        histories=HistoryReader(history, metrics, deadlines),
        served=served,
        comparisons=Comparisons(served, calls, engine, metrics),
        follow_ups=FollowUps(metrics),
        readiness=Readiness(engine, settings.heartbeat_limit_s),
    )
    follower = make_follower(context, source)
    keys = KeyRing(settings.keys, metrics) if settings.keys else None
    traces = open_traces(settings.otlp) if settings.otlp else None
    adapter = make_adapter(context, source, keys, follower) if settings.behaviorgpt else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        watch = asyncio.create_task(keys.watch()) if keys else None
        try:
            for loaded in served.now.releases:
                await engine.load(loaded)
                await warm(calls, loaded)
            await served.restore()
            follower.start()
            running = [
                asyncio.create_task(context.comparisons.run_forever()),
                asyncio.create_task(keep_marked(source.store, plan)),
                asyncio.create_task(measure_lag(metrics.loop_lag)),
                *([asyncio.create_task(adapter.jobs())] if adapter and adapter.jobs else []),
            ]
            yield
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        finally:
            await follower.close()
            if watch:
                watch.cancel()
            engine.close()
            await asyncio.to_thread(cache.close)
            await history.close()
            if changes:
                await changes.close()
            if traces:
                await asyncio.to_thread(traces.close)

    # FastAPI runs the lifespan; the front serves every route itself.
    fastapi = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    pages = PageRoutes()
    parts = (
        RecommendRoutes(context, lambda num_requests: charge(keys, num_requests)),
        ScoreRoutes(context),
        EventRoutes(context),
        UserRoutes(context),
        HealthRoutes(context),
        ItemRoutes(context),
        CatalogueRoutes(context),
        MapRoutes(context),
        PlanRoutes(),
        Admin(context, source, follower),
    )
    routes = [route for part in parts for route in part.routes()] + list(adapter.routes if adapter else ())
    pages.describe(document(routes, VERSION))
    table = RouteTable([*routes, *pages.routes()])
    observe(context, cache)
    log = RequestLog(settings.log_hash_key.get_secret_value() if settings.log_hash_key else None)
    reporters: list[Callable[[RequestRecord], None]] = [log, *([traces] if traces else [])]
    is_busy = lambda: context.readiness.leaving is None and admission.is_busy  # noqa: E731
    return Application(Front(fastapi, table, settings, metrics, keys, reporters, is_busy), fastapi, context, follower, cache)


def make_engine(settings: Settings, source: ReleaseSource) -> tuple[Engine, UserCache]:
    """The engine that the settings choose, and its cache of user states."""
    limits = Limits(settings.batch_requests, settings.batch_tokens, settings.max_queued, settings.max_wait_s)
    if settings.engine == "process":
        remote = RemoteEngine(setup_of(settings, source.store.local, name_of(source.device.dtype)), limits)
        return remote, remote.cache
    cache = UserCache(settings.user_cache_mb << 20, settings.verify_share)
    if settings.user_cache_dir:
        cache.open_file(settings.user_cache_dir, int(settings.user_cache_gb * 2**30))
    return Engine(settings.torch_threads, limits), cache


def make_follower(context: Context, source: ReleaseSource) -> Follower:
    """The follower, which keeps the server on the release that the store's pointer names."""
    settings, metrics, served, engine = context.settings, context.metrics, context.served, context.engine
    num_copies = 2 if settings.engine == "process" else 1
    loader = ReleaseLoader(source, engine, context.calls, num_copies)
    swapper = Swapper(served, engine, loader, metrics, settings.keep_old_s)
    return Follower(served, loader, swapper, CanaryJudge(served, swapper, loader, metrics), metrics, settings.poll_s)


def charge(keys: KeyRing | None, num_requests: int) -> None:
    """Charge the key of the current request for `num_requests` further requests in its body."""
    record = RECORD.get()
    if keys and record and record.key_id and num_requests > 0:
        keys.charge(record.key_id, num_requests)


def memory_available() -> float:
    """Bytes that this process may still take; infinite where the system does not tell."""
    left = available_bytes()
    return math.inf if left is None else left


def observe(context: Context, cache: UserCache) -> None:
    """Connect gauges to the values that they show, which are read at each scrape."""
    metrics, engine, served = context.metrics, context.engine, context.served
    metrics.heartbeat_age.set_function(lambda: engine.heartbeat_age_s)
    metrics.queue_depth.set_function(lambda: engine.num_queued)
    metrics.memory_available.set_function(memory_available)
    metrics.queue_tokens.set_function(lambda: engine.queued_cost)
    engine.on_batch = metrics.count_batch
    counted = {
        "hits": lambda: cache.counters.hits,
        "misses": lambda: cache.counters.misses,
        "carried": lambda: cache.counters.carried,
        "carried_in_part": lambda: cache.counters.carried_in_part,
        "restored": lambda: cache.counters.restored,
        "unreadable": lambda: cache.counters.unreadable,
        "evictions": lambda: cache.counters.evictions,
        "verified": lambda: cache.counters.verified,
        "failures": lambda: cache.counters.failures,
        "out_of_memory": lambda: cache.counters.out_of_memory,
    }
    for outcome, read in counted.items():
        metrics.user_cache.labels(outcome).set_function(read)
    metrics.user_cache_bytes.set_function(lambda: cache.counters.num_bytes)
    metrics.user_cache_error.set_function(lambda: cache.counters.max_error)
    metrics.delta_items.labels("put").set_function(lambda: served.num_changed[0])
    metrics.delta_items.labels("deleted").set_function(lambda: served.num_changed[1])
    show(served.current, metrics)
