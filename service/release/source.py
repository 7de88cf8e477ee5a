"""Where a server's releases come from, and those it needs before it can answer."""

from dataclasses import dataclass

import torch

from service.release.loaded import CPU, LoadedRelease
from service.release.loading import load_release, open_release
from service.settings import Settings
from twotower.artefacts.cache import fetch, local_copy
from twotower.artefacts.release import open_store, pointers
from twotower.artefacts.signature import Verifier, load_verifier
from twotower.artefacts.store import LocalStore, Store
from twotower.errors import ArtefactError, EnvironmentProblem, StoreError
from twotower.progress import say


@dataclass(frozen=True, slots=True)
class Source:
    """A store, whose releases of it are trusted, and where their items are searched."""

    store: Store
    signed_by: Verifier | None = None
    device: torch.device = CPU


def source_of(settings: Settings) -> Source:
    """The source that the settings name; EnvironmentProblem for a key, a URL or a device that cannot be used."""
    signed_by = load_verifier(settings.verify_key) if settings.verify_key else None
    return Source(open_store(settings.store), signed_by, device_of(settings) if settings.engine == "thread" else CPU)


def device_of(settings: Settings) -> torch.device:
    """Where the engine searches; EnvironmentProblem when that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "TWOTOWER_DEVICE=cuda needs a GPU that torch can use, and there is none. Leave it out to search on the CPU."
        )
    return torch.device(settings.device)


def first_release(source: Source) -> LoadedRelease:
    """What to serve after a start: what the pointer names, or the last release served from here that is still good.

    StoreError or ArtefactError, those of what the pointer names, when there is none.
    """
    store, signed_by = source.store, source.signed_by
    try:
        return load_release(local_copy(store, signed_by), signed_by, source.device)
    except (StoreError, ArtefactError) as error:
        release = last_good(source)
        if release is None:
            raise
        say(f"WARNING: {error}")
        say(f"WARNING: serving {release.id} instead, an older release that is good. Mend the store: its pointer is followed.")
        return release


def last_good(source: Source) -> LoadedRelease | None:
    """The release on this machine that was pointed at last and can be served; None without one."""
    local = LocalStore(source.store.local)
    known = local.releases()
    for release in dict.fromkeys(pointer.release for pointer in pointers(local) if pointer.release in known):
        try:
            return open_release(fetch(local, release), source.signed_by, source.device)
        except (StoreError, ArtefactError):
            continue
    return None
