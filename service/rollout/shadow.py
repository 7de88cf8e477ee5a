"""Answered requests asked again of another release, while the engine has nothing else to do."""

import asyncio
import math
from time import perf_counter

from service.rollout.variants import CANARY, CURRENT, Copy, overlap
from service.routes.context import Service
from twotower.progress import say

_BUSY_S = 0.01


async def compare_forever(service: Service) -> None:
    """Compare what `Variants` notes, until cancelled. Under load nothing is compared, and the oldest notes are lost."""
    waiting, arrived = service.variants.waiting, service.variants.arrived
    while True:
        await arrived.wait()
        if service.engine.num_queued:
            await asyncio.sleep(_BUSY_S)
        elif waiting:
            await compare(service, *waiting.popleft())
        else:
            arrived.clear()


async def compare(service: Service, kind: str, copy: Copy) -> None:
    """Ask the other release; whatever it fails at is counted, and nobody else's."""
    plan, trial = service.variants.plan, service.variants.trial
    other = CURRENT if kind == CANARY or plan.shadow is None else plan.shadow.release
    release, started_s = service.others.get(other, service.release), perf_counter()
    try:
        ranking = await service.rank(release, copy.asked, math.inf)
    except Exception as error:
        service.metrics.compared.labels(kind, "failed").inc()
        say(f"WARNING: {release.id} failed a {kind} request: {type(error).__name__}: {error}")
        return
    alike = overlap(copy.answer, ranking)
    service.metrics.compared.labels(kind, "compared").inc()
    service.metrics.compared_seconds.labels(kind).observe(perf_counter() - started_s)
    service.metrics.overlap.labels(kind).observe(alike)
    if trial and kind == CANARY and copy.release == trial.release:
        trial.overlaps.append(alike)
