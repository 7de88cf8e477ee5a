"""Which release answers whom: arms side by side, a shadow that answers nobody, and the trial of a new release.

A plan is a file that is read once. Whoever has a user_id, or else a session_id, stays in the same arm.
"""

import asyncio
import secrets
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.ranking.recommend import Asked
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease
from service.telemetry.metrics import Metrics
from twotower.errors import EnvironmentProblem

CURRENT, CANARY, SHADOW = "current", "canary", "shadow"
MAX_WAITING = 64  # copies that wait for an idle engine; the oldest makes room
FEW_OVERLAPS = 20  # before so many comparisons their mean says little
KEPT_LATENCIES = 10_000

Percent = Annotated[float, Meta(ge=0, le=100)]
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]  # a label of metrics
ReleaseName = Annotated[str, Meta(pattern="^(current|release-[0-9a-f]{12})$")]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Verdict = Literal["wait", "promote", "errors", "latency", "overlap"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Arm(_Table, frozen=True, kw_only=True):
    """A share of the users, and the release that answers them."""

    name: Name
    percent: Percent
    release: ReleaseName = CURRENT  # what the pointer names, or an id


class ShadowPlan(_Table, frozen=True, kw_only=True):
    """A release that is asked a sample of the requests once they are answered, to be compared."""

    release: ReleaseName
    percent: Percent


class CanaryPlan(_Table, frozen=True, kw_only=True):
    """What a new release must show before the pointer that names it is followed for all."""

    percent: Percent
    seconds: Seconds
    min_requests: Annotated[int, Meta(ge=1)] = 100  # before fewer nothing is judged early
    max_error_rate: Share = 0.01  # above that of the release before it
    max_p99_ratio: Annotated[float, Meta(ge=1)] = 1.5
    min_overlap: Share = 0.1  # of the first ten items, with the release before it: as the gates ask of a new bundle


class Plan(_Table, frozen=True, kw_only=True):
    """Everything the file says; without a file everyone gets the current release."""

    salt: str = ""  # another one deals the users anew
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
        """Releases that are needed whatever the pointer names."""
        named = {arm.release for arm in self.arms} | ({self.shadow.release} if self.shadow else set())
        return named - {CURRENT}

    def arm_of(self, key: str) -> Arm:
        """The arm of a user."""
        place = place_of(self.salt, key)
        for arm in self.arms:
            place -= arm.percent
            if place < 0:
                return arm
        return self.arms[-1]


def load_plan(path: Path) -> Plan:
    """The plan in a TOML file; EnvironmentProblem says what is wrong with it."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Plan)
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {path}: {error.strerror or error}. Correct --variants.") from error
    except ValueError as error:  # of TOML, of UTF-8, of what a plan may hold
        raise EnvironmentProblem(f"{path} is no plan of variants: {error}. Correct it, or start without --variants.") from error


def place_of(salt: str, key: str) -> float:
    """Where someone stands, from 0 to 100: always the same for one salt, and independent between salts."""
    digest = blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100


@dataclass(frozen=True, slots=True)
class Copy:
    """An answered request, to be asked again of another release. It names a release but holds none, to keep none in memory."""

    release: str
    variant: str
    asked: Asked
    answer: Ranking


@dataclass(slots=True)
class Outcomes:
    """What became of the requests that one release answered."""

    num_failed: int = 0
    num_requests: int = 0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))

    def add(self, failed: bool, latency_s: float) -> None:
        """One more."""
        self.num_failed += failed
        self.num_requests += 1
        self.latencies_s.append(latency_s)

    @property
    def error_rate(self) -> float:
        """0 before the first request."""
        return self.num_failed / max(self.num_requests, 1)

    @property
    def p99_s(self) -> float:
        """Of the last requests, of which there is at least one."""
        return float(np.percentile(self.latencies_s, 99))


@dataclass(slots=True)
class Trial:
    """A new release that answers a share of the requests until its time is over or a limit is broken."""

    release: str
    plan: CanaryPlan
    started_s: float
    new: Outcomes = field(default_factory=Outcomes)
    old: Outcomes = field(default_factory=Outcomes)
    overlaps: list[float] = field(default_factory=list)

    def verdict(self, now_s: float) -> Verdict:
        """What to do now: wait, promote it, or give it up for the limit named.

        At the end few requests are enough to judge by, but not of the 99th percentile. Without any it is promoted.
        """
        over = now_s - self.started_s >= self.plan.seconds
        enough = self.new.num_requests >= self.plan.min_requests
        if (enough or over) and self.new.error_rate > self.old.error_rate + self.plan.max_error_rate:
            return "errors"
        timed = enough and self.old.num_requests >= self.plan.min_requests
        if timed and self.new.p99_s > self.plan.max_p99_ratio * self.old.p99_s:
            return "latency"
        compared = len(self.overlaps) >= FEW_OVERLAPS or (over and self.overlaps)
        if compared and np.mean(self.overlaps) < self.plan.min_overlap:
            return "overlap"
        return "promote" if over else "wait"


class Variants:
    """Deals requests to releases, and hears how they went. Lives on the event loop."""

    def __init__(self, plan: Plan, metrics: Metrics) -> None:
        self.plan = plan
        self.trial: Trial | None = None
        self.waiting: deque[tuple[str, Copy]] = deque(maxlen=MAX_WAITING)
        self.arrived = asyncio.Event()
        self._metrics = metrics
        self._compared = {CANARY, *(arm.name for arm in plan.arms if arm.release == CURRENT)}

    def choose(
        self, current: LoadedRelease, others: Mapping[str, LoadedRelease], asked: RecommendRequest
    ) -> tuple[LoadedRelease, str]:
        """The release that answers a request, and the name of its variant."""
        if len(self.plan.arms) == 1 and self.trial is None and self.plan.arms[0].release == CURRENT:
            return current, self.plan.arms[0].name
        key = asked.user_id or asked.session_id or secrets.token_hex(8)
        arm = self.plan.arm_of(key)
        if arm.release != CURRENT:
            return others.get(arm.release, current), arm.name
        # Salted with the release: not the same users are the first every night.
        if self.trial and place_of(f"{self.plan.salt} {self.trial.release}", key) < self.trial.plan.percent:
            return others[self.trial.release], CANARY
        return current, arm.name

    @contextmanager
    def watch(self, variant: str) -> Iterator[None]:
        """Count one request's model work, its time, and whether the release failed it; a client's mistake is no failure."""
        started_s, failed = monotonic(), False
        try:
            yield
        except ApiError as error:
            failed = error.code == "deadline_exceeded"
            raise
        except Exception:
            failed = True
            raise
        finally:
            self._metrics.variant_requests.labels(variant, "failed" if failed else "answered").inc()
            if self.trial and variant in self._compared:
                (self.trial.new if variant == CANARY else self.trial.old).add(failed, monotonic() - started_s)

    def copy(self, copy: Copy) -> None:
        """Note an answered request where another release is to be asked the same."""
        if copy.variant == CANARY:
            self._note(CANARY, copy)
        elif self.plan.shadow and place_of(SHADOW, secrets.token_hex(8)) < self.plan.shadow.percent:
            self._note(SHADOW, copy)

    def _note(self, kind: str, copy: Copy) -> None:
        self.waiting.append((kind, copy))
        self.arrived.set()


def overlap(one: Ranking, other: Ranking) -> float:
    """The share of the first ten items that both answers have; 1 of two that are empty."""
    first, second = ({item.item_id for item in ranking.items[:10]} for ranking in (one, other))
    return len(first & second) / max(len(first), len(second), 1) if first or second else 1.0
