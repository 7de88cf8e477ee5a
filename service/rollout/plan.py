"""The plan of variants: arms side by side, a shadow whose answers are only compared, and the canary trial of a new release.

A plan is a file that is read once. A user always gets the same arm; without a user id, a session does.
"""

import tomllib
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from twotower.artefacts.release import Candidate
from twotower.errors import EnvironmentProblem

CURRENT, CANARY, SHADOW = "current", "canary", "shadow"

Percent = Annotated[float, Meta(ge=0, le=100)]
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]  # also used as a label of metrics
ReleaseName = Annotated[str, Meta(pattern="^(current|release-[0-9a-f]{12})$")]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the TOML file."""


class Arm(_Table, frozen=True, kw_only=True):
    """A share of the users, and the release that answers them."""

    name: Name
    percent: Percent
    release: ReleaseName = CURRENT  # a release id, or `current` for the release that the pointer names


class ShadowPlan(_Table, frozen=True, kw_only=True):
    """A release that gets a sample of the answered requests again, to compare its answers."""

    release: ReleaseName
    percent: Percent


class CanaryPlan(_Table, frozen=True, kw_only=True):
    """The trial that a new release must pass before it answers all requests."""

    percent: Percent
    seconds: Seconds
    min_requests: Annotated[int, Meta(ge=1)] = 100  # with fewer, errors are judged only at the end, and latency not at all
    max_error_rate: Share = 0.01  # by so much the error rate may exceed that of the current release
    max_degraded_rate: Share = 0.01  # the same for answers that lack something, or have no item
    max_p99_ratio: Annotated[float, Meta(ge=1)] = 1.5  # of its p99 latency to that of the current release
    min_overlap: Share = 0.1  # mean share of the first ten items in common with the current release; same as the nightly gate


class Plan(_Table, frozen=True, kw_only=True):
    """The whole file. Without a file, the current release answers every request."""

    salt: str = ""  # a different salt assigns the users to arms anew
    arms: tuple[Arm, ...] = (Arm(name="default", percent=100),)
    shadow: ShadowPlan | None = None
    canary: CanaryPlan | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names) or CANARY in names:
            raise ValueError(f"arms: every arm needs a name of its own, other than {CANARY!r}")
        if abs(sum(arm.percent for arm in self.arms) - 100) > 1e-6:
            raise ValueError("arms: their percent must add up to 100")

    @property
    def pinned(self) -> set[str]:
        """Ids of the releases that the plan needs, whichever release the pointer names."""
        named = {arm.release for arm in self.arms} | ({self.shadow.release} if self.shadow else set())
        return named - {CURRENT}

    def trial_of(self, candidate: Candidate) -> CanaryPlan:
        """The trial of a candidate: its share and length come with the store's pointer, the limits from this plan."""
        limits = self.canary or CanaryPlan(percent=candidate.percent, seconds=candidate.seconds)
        return replace(limits, percent=candidate.percent, seconds=candidate.seconds)

    def arm_of(self, key: str) -> Arm:
        """The arm of a user or session."""
        place = place_of(self.salt, key)
        for arm in self.arms:
            place -= arm.percent
            if place < 0:
                return arm
        return self.arms[-1]


def load_plan(path: Path) -> Plan:
    """The plan in a TOML file; EnvironmentProblem that says what is wrong with the file."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Plan)
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {path}: {error.strerror or error}. Correct --variants.") from error
    except ValueError as error:  # the file is not TOML, not UTF-8 or not a valid plan
        message = f"{path} is not a valid plan of variants: {error}. Correct it, or start without --variants."
        raise EnvironmentProblem(message) from error


def place_of(salt: str, key: str) -> float:
    """A number from 0 to 100 for a key, as if drawn at random: always the same for one salt, and independent between salts."""
    digest = blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100
