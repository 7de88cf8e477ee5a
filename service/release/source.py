"""The store that a server takes its releases from, and the release that it serves first."""

from dataclasses import dataclass

from service.model.pages import PagePools
from service.release.loaded import LoadedRelease
from service.release.loading import device_of, load_release, open_release
from service.settings import Settings
from twotower.artefacts.cache import fetch, local_copy
from twotower.artefacts.release import open_store, pointers
from twotower.artefacts.signature import Verifier, load_verifier
from twotower.artefacts.store import LocalStore, Store
from twotower.device import ON_CPU, Device
from twotower.errors import ArtefactError, StoreError
from twotower.progress import say


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """A store, the key that its releases must be signed by, and the device that their items are searched on."""

    store: Store
    signed_by: Verifier | None = None
    device: Device = ON_CPU
    pools: PagePools | None = None  # for the histories on a GPU


def source_of(settings: Settings) -> ReleaseSource:
    """The source that the settings name; EnvironmentProblem for a key, a URL or a device that cannot be used."""
    signed_by = load_verifier(settings.verify_key) if settings.verify_key else None
    # With an engine of its own, this process computes nothing, and tells what the engine does on a CPU.
    device = device_of(settings.device if settings.engine == "thread" else "cpu", settings.dtype)
    return ReleaseSource(open_store(settings.store), signed_by, device, PagePools(settings.page_pool_mb << 20))


def first_release(source: ReleaseSource) -> LoadedRelease:
    """The release to serve after a start: the one that the pointer names, or else the last usable one on this machine.

    When there is none, raises the StoreError or ArtefactError of the release that the pointer names.
    """
    store, signed_by = source.store, source.signed_by
    try:
        return load_release(local_copy(store, signed_by), signed_by, source.device, source.pools)
    except (StoreError, ArtefactError) as error:
        release = last_good(source)
        if release is None:
            raise
        say(f"WARNING: {error}")
        say(f"WARNING: serving {release.id} instead, an older release. Repair the store: the server keeps following its pointer.")
        return release


def last_good(source: ReleaseSource) -> LoadedRelease | None:
    """Of the releases on this machine that can be served, the one that the pointer named last; None if there is none."""
    local = LocalStore(source.store.local)
    known = local.releases()
    for release in dict.fromkeys(pointer.release for pointer in pointers(local) if pointer.release in known):
        try:
            return open_release(fetch(local, release), source.signed_by, source.device, source.pools)
        except (StoreError, ArtefactError):
            continue
    return None
