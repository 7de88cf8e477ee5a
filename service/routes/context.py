"""State of one server, and what its handlers share: histories, the engine, releases, deadlines."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request

from service.api import schemas
from service.api.errors import ApiError
from service.engine.thread import Batched, Engine
from service.histories.history import HistoryStore, HistoryUnavailable, UserHistory
from service.http.messages import read_json
from service.model.user_states import Keeping, Key
from service.ranking.recommend import ANSWER_COST, Answer, Asked, cost_of, forget_users, key_of, recommend_many
from service.ranking.rules import Ranking
from service.release.changes import ItemChanges, caught_up
from service.release.loaded import LoadedRelease
from service.rollout.variants import Variants
from service.settings import Settings
from service.telemetry.metrics import Metrics
from twotower.data.window import WINDOW

T = TypeVar("T")

HISTORY_UNAVAILABLE = "history_unavailable"
_BUSY_S = 0.01  # with less to wait for, nobody is refused who would not be late anyway


@dataclass(slots=True)
class Service:
    """State of one server."""

    settings: Settings
    release: LoadedRelease
    history: HistoryStore
    engine: Engine
    metrics: Metrics
    variants: Variants
    changes: ItemChanges | None = None
    others: dict[str, LoadedRelease] = field(default_factory=dict)  # by id: what `variants` need beside `release`
    leaving: str | None = None  # why no further requests should be sent here
    keeping: Keeping = field(init=False)
    _queued: Counter[Key | None] = field(default_factory=Counter)  # whose requests the engine has
    _recommend_many: Callable[[LoadedRelease, Sequence[Asked]], Sequence[Answer]] = field(init=False)

    def __post_init__(self) -> None:
        self.keeping = Keeping(self.settings.user_cache_mb << 20, self.settings.verify_share)
        self._recommend_many = partial(recommend_many, keeping=self.keeping)

    async def restore(self) -> None:
        """Serve what was changed before this start."""
        if self.changes:
            await self.changes.settle(self.release)
            self.release, *others = [await self.with_changes(release) for release in (self.release, *self.others.values())]
            self.others = {release.id: release for release in others}

    async def rank(self, release: LoadedRelease, one: Asked, deadline_s: float) -> Ranking:
        """An answer, uncounted; ApiError when there is none."""
        batched, cost = Batched(self._recommend_many, release), cost_of(release, one, self._queued)
        self._queued[one.key] += 1
        try:
            return await self.engine.submit_to(batched, one, cost, deadline_s)  # type: ignore[no-any-return]
        finally:
            self._queued[one.key] -= 1
            if not self._queued[one.key]:
                del self._queued[one.key]

    @contextmanager
    def place_for(self, release: LoadedRelease, asked: schemas.RecommendRequest, deadline_s: float) -> Iterator[None]:
        """A place with the engine while the history is read; ApiError, counted, when there is none."""
        try:
            with self.engine.place_for(self._cost_unread(release, asked), deadline_s):
                yield
        except ApiError as error:
            if error.code == "overloaded":
                self.metrics.rejected.labels("queue_full").inc()
            raise

    @property
    def is_busy(self) -> bool:
        """Whether requests wait, so that one more may not be answered in time."""
        return self.leaving is None and self.engine.wait_s > _BUSY_S

    def look_for_place(self, release: LoadedRelease, asked: schemas.RecommendRequest, deadline_s: float) -> None:
        """ApiError, counted, when there is no place with the engine."""
        if self.engine.is_full(deadline_s, self._cost_unread(release, asked)):
            self.metrics.rejected.labels("queue_full").inc()
            raise self.engine.refusal()

    def _cost_unread(self, release: LoadedRelease, asked: schemas.RecommendRequest) -> int:
        """About how much work a request is, before its history is known."""
        key = key_of(asked)
        is_known = key is not None and (key in self._queued or key in release.users)
        return ANSWER_COST if is_known else ANSWER_COST + WINDOW

    async def forget(self, user_id: str) -> None:
        """Drop what the model keeps of a user who is not stored any more."""
        deadline_s = self.deadline(time.monotonic(), None)
        for release in (self.release, *self.others.values()):
            call = self.engine.submit_to(Batched(forget_users, release), ("user", user_id), 0, deadline_s)
            await self.by_engine(call, deadline_s)

    async def with_changes(self, release: LoadedRelease) -> LoadedRelease:
        """A release that was just loaded, with the day's changes; so long as it may be served, `changes` must be kept still."""
        stored = await self.changes.stored(release) if self.changes else {}
        return await asyncio.to_thread(caught_up, release, stored) if stored else release

    @property
    def num_changed(self) -> tuple[int, int]:
        """Items put and items deleted since the release was built."""
        added = self.release.added
        num_put = len(added.vectors_AV) if added else 0
        return num_put, (len(added.changes) if added else 0) - num_put

    async def body(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        """The body of a request, decoded; ApiError says what is wrong and where."""
        with self.metrics.stage("decode"):
            return await read_json(request, decoder, self.settings)

    def admit(self) -> None:
        """ApiError when the engine would refuse whatever is asked: then it is not even worth reading."""
        if self.engine.is_full(self.deadline(time.monotonic(), None)):
            self.metrics.rejected.labels("queue_full").inc()
            raise self.engine.refusal()

    def deadline(self, started_s: float, timeout_ms: int | None) -> float:
        """When (monotonic) a request that came at `started_s` must be answered."""
        return started_s + (timeout_ms / 1000 if timeout_ms else self.settings.request_timeout_s)

    async def stored(self, asked: schemas.AboutUser, deadline_s: float) -> tuple[UserHistory | None, list[str]]:
        """What the store knows of the user, None when it was not asked or could not answer, and notes for `degraded`."""
        if asked.user_id is None or asked.history_mode == "replace":
            return None, []
        if asked.strict:
            return await self.confirmed("read", self.history.read(asked.user_id), deadline_s), []
        try:
            return await self.within("history", self.history.read(asked.user_id), deadline_s), []
        except HistoryUnavailable as error:
            self.metrics.history_errors.labels("read", error.reason).inc()
            return None, [HISTORY_UNAVAILABLE]

    async def confirmed(self, op: str, call: Awaitable[T], deadline_s: float | None = None) -> T:
        """The result of a call of the history store, without which there is no answer."""
        try:
            return await self.within("history", call, deadline_s or self.deadline(time.monotonic(), None))
        except HistoryUnavailable as error:
            self.metrics.history_errors.labels(op, error.reason).inc()
            message = f"the history store did not confirm ({error.reason}); send it again, events under the same event_id"
            raise ApiError("history_unavailable", message) from error

    async def compute(self, work: Callable[[], T], deadline_s: float) -> T:
        """The result of work on the engine's thread."""
        return await self.by_engine(self.engine.submit(work, deadline_s), deadline_s)

    async def by_engine(self, call: Awaitable[T], deadline_s: float) -> T:
        """What a call of the engine gives, counted."""
        try:
            return await self.within("engine", call, deadline_s)
        except ApiError as error:
            if error.code == "overloaded":
                self.metrics.rejected.labels("queue_full").inc()
            raise

    async def within(self, stage: str, call: Awaitable[T], deadline_s: float) -> T:
        """What `call` gives, timed as a stage and ended at the deadline."""
        with self.metrics.stage(stage):
            try:
                async with asyncio.timeout(max(deadline_s - time.monotonic(), 0)):
                    return await call
            except TimeoutError:
                self.metrics.late.labels(stage).inc()
                raise ApiError("deadline_exceeded", f"the request's time was over during: {stage}") from None

    def count(self, degraded: list[str], num_unknown: int, has_items: bool) -> None:
        """Count what an answer lacks."""
        if num_unknown:
            self.metrics.unknown_items.inc(num_unknown)
        if not has_items:
            self.metrics.empty.inc()
        for reason in degraded:
            self.metrics.degraded.labels(reason).inc()
