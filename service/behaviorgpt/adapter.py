"""Puts the parts of this room together for one server."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.behaviorgpt.catalogues import CatalogueRoutes, Uploads
from service.behaviorgpt.events import EventTypes
from service.behaviorgpt.ranking import RankingRoutes
from service.behaviorgpt.refusals import Access
from service.http.keys import KeyRing, Scope
from service.http.route_table import Route
from service.release.source import ReleaseSource
from service.rollout.follow import Follower
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
    """The routes of the client, and what does its jobs on the event loop; None where this server does none."""

    routes: tuple[Route, ...]
    jobs: Callable[[], Coroutine[None, None, None]] | None


def make_adapter(context: Context, source: ReleaseSource, keys: KeyRing | None, follower: Follower) -> Adapter:
    """The adapter of one server; EnvironmentProblem for a setting that cannot be used."""
    settings, access = context.settings, access_of(keys)
    uploads = reason_off(settings) or uploads_of(context, source, follower)
    folder = None if isinstance(uploads, str) else uploads.folder
    releases = CatalogueReleases(context.served, settings.behaviorgpt_catalog, folder)
    try:
        types = EventTypes.of(settings.behaviorgpt_events, context.served.current.towers.schema.events)
    except ValueError as error:
        raise EnvironmentProblem(f"TWOTOWER_BEHAVIORGPT_EVENTS: {error}") from error
    ranking = RankingRoutes(context, releases, settings.behaviorgpt_catalog, types, access)
    catalogues = CatalogueRoutes(context, uploads, releases, access)
    jobs = None if isinstance(uploads, str) else uploads.runner.run_forever
    return Adapter((*ranking.routes(), *catalogues.routes()), jobs)


def uploads_of(context: Context, source: ReleaseSource, follower: Follower) -> Uploads:
    """The uploaded catalogues of a server, and what does their jobs; EnvironmentProblem when their folder cannot be used."""
    served = context.served

    def towers() -> tuple[Path, str]:
        release = served.current.base
        return release_path(source.store.local, release.id), release.info.bundle_id

    folder = CatalogueFolder.open(Path(context.settings.behaviorgpt_dir), alone=context.settings.workers == 1)
    return Uploads(folder, JobRunner(folder, towers, lambda: follower.named == served.current.id))


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
