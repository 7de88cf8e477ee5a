"""The releases that answer. Only `ServedReleases` changes which releases these are.

A request takes all it needs from one immutable `Snapshot`, which is replaced by a single assignment. So no request sees half a
swap.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import msgspec
import pyarrow as pa

from service.api.schemas import AboutUser, Rejected, SimilarRequest
from service.release.changes import ItemChanges, with_item_changes
from service.release.loaded import LoadedRelease
from service.rollout.plan import CANARY, CURRENT, CanaryPlan, Plan, place_of
from service.rollout.trial import Trial
from twotower.artefacts.item_changes import Changed

Compute = Callable[[Callable[[], LoadedRelease]], Awaitable[LoadedRelease]]  # on the engine's thread
HandOver = Callable[[LoadedRelease, LoadedRelease], None]  # gives the user states of the second release to the first
_NONE: Mapping[str, LoadedRelease] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The releases that answer at one moment."""

    current: LoadedRelease
    others: Mapping[str, LoadedRelease] = field(default_factory=dict)  # by id: those that the plan pins, and the one on trial
    trial: Trial | None = None

    def __post_init__(self) -> None:
        assert self.current.id not in self.others, "a release is in memory only once"
        assert self.trial is None or self.trial.release in self.others, "a release on trial is in memory"

    @property
    def releases(self) -> tuple[LoadedRelease, ...]:
        """All releases that answer, the current one first."""
        return (self.current, *self.others.values())

    def find(self, release: str) -> LoadedRelease | None:
        """A release by its id, or the current one by the word `current`; None if there is no such release."""
        return self.current if release in (CURRENT, self.current.id) else self.others.get(release)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The release chosen for a request, the name of the variant, and the trial that the outcome counts for, if any."""

    release: LoadedRelease
    variant: str
    trial: Trial | None = None


class ServedReleases:
    """Owns the snapshot, and is the only one to replace it. Used on the event loop."""

    def __init__(
        self,
        current: LoadedRelease,
        plan: Plan,
        changes: ItemChanges | None = None,
        others: Mapping[str, LoadedRelease] = _NONE,
        hand_over: HandOver = lambda _heir, _before: None,
    ) -> None:
        self.plan, self.changes, self._hand_over = plan, changes, hand_over
        self._now = Snapshot(current, MappingProxyType(dict(others)))

    @property
    def now(self) -> Snapshot:
        """The releases that answer now. A caller that needs several facts about them must read this once."""
        return self._now

    @property
    def current(self) -> LoadedRelease:
        """The current release: the last one named by the store's pointer that took over."""
        return self._now.current

    @property
    def num_changed(self) -> tuple[int, int]:
        """Items put and items deleted since the current release was built."""
        added = self.current.added
        num_put = len(added.vectors_AV) if added else 0
        return num_put, (len(added.changes) if added else 0) - num_put

    def choose(self, request: AboutUser) -> Chosen:
        """Choose the release for a request. A user, or else a session, always gets the same arm."""
        now, arms = self._now, self.plan.arms
        if len(arms) == 1 and now.trial is None and arms[0].release == CURRENT:
            return Chosen(now.current, arms[0].name)
        key = request.user_id or request.session_id
        if key is None:
            if isinstance(request, SimilarRequest):  # similar items are the same for everyone
                return Chosen(now.current, next((arm.name for arm in arms if arm.release == CURRENT), arms[0].name))
            key = secrets.token_hex(8)
        arm = self.plan.arm_of(key)
        if arm.release != CURRENT:
            return Chosen(now.find(arm.release) or now.current, arm.name)
        trial = now.trial
        # The salt contains the release, so that it is not always the same users who get a new release first.
        if trial and place_of(f"{self.plan.salt} {trial.release}", key) < trial.plan.percent:
            return Chosen(now.others[trial.release], CANARY, trial)
        return Chosen(now.current, arm.name, trial)

    def unchanging(self) -> AbstractAsyncContextManager[object]:
        """A context in which no items are changed."""
        return self.changes.one_at_a_time if self.changes else nullcontext()

    async def restore(self) -> None:
        """Serve the item changes that were made before this start."""
        if self.changes:
            await self.changes.settle(self.current)
            current, *others = [await self._with_changes(release) for release in self._now.releases]
            self._now = replace(self._now, current=current, others=_by_id(others))

    async def swap(self, release: LoadedRelease) -> LoadedRelease:
        """Make a release the current one, from the next request on, and end a trial. Returns the current release before."""
        async with self.unchanging():
            current = self._now.others.get(release.id) or await self._with_changes(release)
            if self.changes:
                await self.changes.settle(current)
            before = self._now.current
            others = {name: other for name, other in self._pinned().items() if name != current.id}
            if before.id in self.plan.pinned:
                others[before.id] = before
            self._now = Snapshot(current, MappingProxyType(others))
            if before.id not in others and before is not current:
                self._hand_over(current, before)
        return before

    async def start_trial(self, release: LoadedRelease, canary: CanaryPlan, now_s: float, is_candidate: bool = False) -> None:
        """Let a release answer the share of requests that the plan gives a canary. A trial of another release ends."""
        async with self.unchanging():
            with_changes = self._now.others.get(release.id) or await self._with_changes(release)
            others = self._pinned() | {release.id: with_changes}
            self._now = Snapshot(self.current, MappingProxyType(others), Trial(release.id, canary, now_s, is_candidate))

    def end_trial(self) -> None:
        """Stop the release on trial from answering. Without a trial nothing happens."""
        if self._now.trial:
            self._now = Snapshot(self.current, MappingProxyType(self._pinned()))

    async def put_items(self, changes: ItemChanges, raw_items: list[msgspec.Raw], compute: Compute) -> list[Rejected]:
        """Store items and serve them in every release. Returns the rejected items with the reasons."""
        async with self.unchanging():
            items, rows, rejected = await changes.validate_items(self.current.base, raw_items)
            await self._change(changes, items, rows, compute)
        return rejected

    async def delete_items(self, changes: ItemChanges, item_ids: list[str], compute: Compute) -> None:
        """Store the removal of items, and remove them from every release."""
        async with self.unchanging():
            await self._change(changes, dict.fromkeys(item_ids), self.current.base.items.schema.empty_table(), compute)

    async def _change(self, changes: ItemChanges, items: Changed, put: pa.Table, compute: Compute) -> None:
        """Make the changed releases, store the changes, and only then serve the new releases."""
        if not items:
            return
        before = self._now
        current = await compute(partial(changes.apply, before.current, items, put))
        others = {name: await compute(partial(with_item_changes, other, items)) for name, other in before.others.items()}
        await changes.write(items)
        # A trial may have ended meanwhile, and its release must not come back. So the releases to keep are read again.
        now = self._now
        kept = {name: others.get(name, other) for name, other in now.others.items()}
        self._now = replace(now, current=current, others=MappingProxyType(kept))
        self._hand_over(current, now.current)
        for name, other in kept.items():
            if other is not now.others[name]:
                self._hand_over(other, now.others[name])

    async def _with_changes(self, release: LoadedRelease) -> LoadedRelease:
        """A newly loaded release with the stored item changes. The caller must prevent further changes until it is served."""
        stored = await self.changes.stored(release) if self.changes else {}
        return await asyncio.to_thread(with_item_changes, release, stored) if stored else release

    def _pinned(self) -> dict[str, LoadedRelease]:
        """The releases besides the current one that the plan pins: all others except the one on trial, unless that is pinned."""
        trial = self._now.trial.release if self._now.trial else None
        return {name: other for name, other in self._now.others.items() if name != trial or name in self.plan.pinned}


def _by_id(releases: list[LoadedRelease]) -> Mapping[str, LoadedRelease]:
    return MappingProxyType({release.id: release for release in releases})
