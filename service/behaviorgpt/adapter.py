"""Puts the parts of this room together for one server."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.behaviorgpt.catalogues import CatalogueRoutes
from service.behaviorgpt.events import EventTypes
from service.behaviorgpt.ranking import RankingRoutes
from service.behaviorgpt.refusals import Access
from service.http.keys import KeyRing, Scope
from service.http.route_table import Route
from service.release.source import ReleaseSource
from service.routes.context import Context
from service.settings import Settings
from service.telemetry.request_record import RECORD
from service.uploads.folder import CatalogueFolder
from service.uploads.jobs import JobRunner
from service.uploads.releases import CatalogueReleases
from twotower.artefacts.release import release_path
from twotower.errors import EnvironmentProblem


@dataclass(frozen=True, slots=True)
class Adapter:
    """The routes of the client, and the task that does its jobs."""

    routes: tuple[Route, ...]
    run: Callable[[], "asyncio.Task[None]"]


def make_adapter(context: Context, source: ReleaseSource, keys: KeyRing | None) -> Adapter:
    """The adapter of one server; EnvironmentProblem for a setting that cannot be used."""
    settings = context.settings
    folder = CatalogueFolder.open(Path(settings.behaviorgpt_dir), alone=settings.workers == 1)
    off = reason_off(settings)
    releases = CatalogueReleases(context.served, settings.behaviorgpt_catalog, None if off else folder)

    def towers() -> tuple[Path, str]:
        release = context.served.current.base
        return release_path(source.store.local, release.id), release.info.bundle_id

    runner, access = JobRunner(folder, towers), access_of(keys)
    try:
        types = EventTypes.of(settings.behaviorgpt_events, context.served.current.towers.schema.events)
    except ValueError as error:
        raise EnvironmentProblem(f"TWOTOWER_BEHAVIORGPT_EVENTS: {error}") from error
    ranking = RankingRoutes(context, releases, settings.behaviorgpt_catalog, types, access)
    catalogues = CatalogueRoutes(context, folder, runner, releases, access, off)
    return Adapter((*ranking.routes(), *catalogues.routes()), lambda: asyncio.create_task(runner.run_forever()))


def reason_off(settings: Settings) -> str | None:
    """Why this server takes no uploads; None where it does."""
    if settings.engine == "process":
        return "this server takes no catalogues, because its model runs in a process of its own: start it with --engine thread"
    if find_spec("embedder_cache") is None:
        return "this server takes no catalogues, because `twotower embed` is not installed: pip install 'twotower[embed]'"
    return None


def access_of(keys: KeyRing | None) -> Access:
    """What the key of the current request may do."""

    def key_id() -> str | None:
        record = RECORD.get()
        return record.key_id if record else None

    def has_scope(scope: Scope) -> bool:
        return keys is None or keys.has_scope(key_id() or "", scope)

    return Access(key_id, has_scope)
