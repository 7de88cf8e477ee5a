"""Requests and responses about releases."""

from typing import Literal

import msgspec

from service.api.schemas import Checked, Id


class ReleaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One release of the store."""

    id: str
    current: bool  # whether the store's pointer names it
    bundle: str | None = None  # the bundle that it was built from
    vector_space_id: str | None = None  # releases of one space have comparable vectors
    items: int | None = None  # number of items
    problem: str | None = None  # why the release could not be read; null if it could


class ReleasesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of the store, and how this server uses them."""

    serving: str  # the release that answers requests
    previous: str | None  # the release served before, if it is still in memory for an instant rollback
    canary: str | None  # the release on trial, which answers a share of the requests
    quarantined: dict[str, str]  # releases that are not served until the pointer moves, with the reason
    releases: list[ReleaseEntry]  # the releases of the store, oldest first


class ActivateRequest(Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The release that every server of the store is to serve."""

    release: Id  # a release of the store


class PointerResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The pointer that was written. A server follows it after its next look at the store, if it can load the release."""

    sequence: int  # the pointer's sequence number
    release: str  # the release that the pointer names
    previous: str | None  # the release that a rollback goes back to


class RefreshResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a look at the pointer, and the release that answers now.

    `unchanged`: nothing was to be done. `swapped`: the named release answers now. `trial`: it is a canary now. `refused`: it
    cannot be used and is quarantined. `unavailable`: the store or the release could not be read, and the server tries again.
    """

    outcome: Literal["unchanged", "swapped", "trial", "refused", "unavailable"]  # what the server did
    serving: str  # the release that answers now
