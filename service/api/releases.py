"""Requests and responses about releases."""

from typing import Literal

import msgspec

from service.api.schemas import Checked, Id


class ReleaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One release of the store; `current` is what the pointer names, `problem` why it could not be read."""

    id: str
    current: bool  # whether the pointer names it
    bundle: str | None = None  # the bundle that it was made from
    vector_space_id: str | None = None  # releases of one space have comparable vectors
    items: int | None = None  # their number
    problem: str | None = None  # why it could not be read


class ReleasesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of the store, the one that answers, and what this server decided about the others."""

    serving: str  # the release that answers
    previous: str | None  # still in memory, so that going back to it is instant
    canary: str | None  # on trial with a share of the requests
    quarantined: dict[str, str]  # not served, and why, until the pointer moves
    releases: list[ReleaseEntry]  # those of the store, oldest first


class ActivateRequest(Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The release that every server of the store is to serve."""

    release: Id  # a release of the store


class PointerResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The pointer that was written; servers follow it once they have looked, and if they can load the release."""

    sequence: int  # the pointer's number
    release: str  # what it names
    previous: str | None  # what a rollback goes to


class RefreshResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a look at the pointer, and the release that answers now."""

    outcome: Literal["unchanged", "swapped", "trial", "refused", "unavailable"]  # what came of it
    serving: str  # the release that answers now
