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


class TrialOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that one release answered during a trial."""

    requests: int  # how many
    failed: int  # of them, those in which the release failed
    degraded: int  # of them, those whose answer lacked something, or had no item
    p99_ms: float | None  # 99th percentile of the time of its model work; null before the first request


class TrialReport(msgspec.Struct, frozen=True, kw_only=True):
    """The trial of a release so far, on this server."""

    release: str  # the release on trial
    passed: bool  # whether its time is over and no limit is broken; it waits for the pointer to name it
    percent: float  # share of the users that it answers
    seconds: float  # length of the trial
    new: TrialOutcomes  # requests that the release on trial answered
    current: TrialOutcomes  # requests that the current release answered meanwhile
    overlap: float | None  # mean share of the first ten items that both answer; null before the first comparison


class ReleasesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of the store, and how this server uses them."""

    serving: str  # the release that answers requests
    previous: str | None  # the release served before, if it is still in memory for an instant rollback
    canary: str | None  # the release on trial, which answers a share of the requests
    trial: TrialReport | None  # how the trial goes, if there is one
    cpu_dtype: Literal["fp32", "bf16"]  # what the model multiplies for the serving release, where it runs on a CPU
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
