"""Compares releases: answered requests are answered again by another release, while the engine has nothing else to do."""

import asyncio
import logging
import secrets
from collections import deque
from dataclasses import dataclass
from time import perf_counter

from service.api.schemas import RecommendRequest
from service.engine.calls import ModelCalls
from service.engine.thread import Engine
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.rollout.plan import CANARY, CURRENT, SHADOW, place_of
from service.rollout.served import Chosen, ServedReleases
from service.telemetry.metrics import Metrics

MAX_WAITING = 64  # comparisons that wait for an idle engine; a further one replaces the oldest
_BUSY_S = 0.01
_log = logging.getLogger("twotower.rollout")


@dataclass(frozen=True, slots=True)
class Comparison:
    """An answered request that another release is to answer too.

    It has the id of the release that answered and not the release itself, so that it keeps no release in memory.
    """

    kind: str  # CANARY or SHADOW
    release: str
    user_request: UserRequest[RecommendRequest]
    answer: Ranking


class Comparisons:
    """Makes comparisons while the engine is idle. Under load none are made, and the oldest ones that wait are dropped."""

    def __init__(self, served: ServedReleases, calls: ModelCalls, engine: Engine, metrics: Metrics) -> None:
        self._served, self._calls, self._engine, self._metrics = served, calls, engine, metrics
        self._waiting: deque[Comparison] = deque(maxlen=MAX_WAITING)
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, chosen: Chosen, user_request: UserRequest[RecommendRequest], answer: Ranking) -> None:
        """Note an answered request, if another release is to answer it too."""
        shadow = self._served.plan.shadow
        if chosen.variant == CANARY:
            kind = CANARY
        elif shadow and place_of(SHADOW, secrets.token_hex(8)) < shadow.percent:
            kind = SHADOW
        else:
            return
        self._waiting.append(Comparison(kind, chosen.release.id, user_request, answer))
        self._arrived.set()

    async def run_forever(self) -> None:
        """Make the noted comparisons, until cancelled."""
        while True:
            await self._arrived.wait()
            if self._engine.num_queued:
                await asyncio.sleep(_BUSY_S)
            elif self._waiting:
                await self.compare(self._waiting.popleft())
            else:
                self._arrived.clear()

    async def compare(self, comparison: Comparison) -> None:
        """Get the other release's answer and compare. If that release fails, this is counted and logged; nothing else happens."""
        now, shadow, kind = self._served.now, self._served.plan.shadow, comparison.kind
        other = CURRENT if kind == CANARY or shadow is None else shadow.release
        release, started_s = now.find(other) or now.current, perf_counter()
        try:
            ranking = await self._calls.recommend_aside(release, comparison.user_request)
        except Exception as error:
            self._metrics.compared.labels(kind, "failed").inc()
            _log.warning("%s failed a %s request: %s: %s", release.id, kind, type(error).__name__, error)
            return
        share = overlap(comparison.answer, ranking)
        self._metrics.compared.labels(kind, "compared").inc()
        self._metrics.compared_seconds.labels(kind).observe(perf_counter() - started_s)
        self._metrics.overlap.labels(kind).observe(share)
        if now.trial and kind == CANARY and comparison.release == now.trial.release:
            now.trial.overlaps.append(share)


def overlap(first: Ranking, second: Ranking) -> float:
    """The share of the first ten items that both answers have in common; 1 for two empty answers."""
    ids, other_ids = ({item.item_id for item in ranking.items[:10]} for ranking in (first, second))
    return len(ids & other_ids) / max(len(ids), len(other_ids), 1) if ids or other_ids else 1.0
