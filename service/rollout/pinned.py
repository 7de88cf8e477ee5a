"""The releases that a plan of variants names."""

from service.release.loaded import LoadedRelease
from service.release.loading import open_release
from service.release.source import ReleaseSource
from service.rollout.plan import Plan
from twotower.artefacts.cache import fetch


def pinned_releases(source: ReleaseSource, plan: Plan, served: LoadedRelease) -> dict[str, LoadedRelease]:
    """The releases that a plan of variants names, by id, without the served one. Raises the same errors as `load_release`."""
    wanted = sorted(plan.pinned - {served.id})
    paths = {release: fetch(source.store, release, source.signed_by) for release in wanted}
    return {release: open_release(path, source.signed_by, source.device) for release, path in paths.items()}
