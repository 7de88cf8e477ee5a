"""The model and the engine called in this process, without HTTP: what serving is held against.

`python -m benchmarks.servers.direct append|visits STORE HISTORIES [CONNECTIONS]` prints one line of JSON. A process of its own,
so that it can be kept on the core that servers get.

N: items
"""

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from benchmarks.servers.generator import NUM_QUESTIONS, WARM_S
from loadtests.traffic import Json, Replay, read_histories
from service.engine import Engine
from service.history import StoredEvent, UserHistory
from service.index import LoadedRelease, load_release
from service.recommender import item_statistics_of, model_history, recommend, to_stored
from service.schemas import Event, RecommendRequest
from twotower.features import Floats
from twotower.scoring import Queries, Request, answer
from twotower.window import PAGE, WINDOW

NUM_USERS = 24
ROUNDS = 5
TOP = 10
SECONDS = 6.0


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """One more event against everything anew; processor time of the model in milliseconds, medians."""

    cold_ms: float
    append_ms: float
    page_ms: float  # mean over 64 events in a row, the one that moves the anchor among them
    max_error: float  # of any item's score
    id_mismatches: int  # users whose top 10 differ


class Visited(msgspec.Struct, frozen=True, kw_only=True):
    """Questions per second of the engine alone."""

    requests_per_s: float


class Answered(NamedTuple):
    """Queries, what to hand in with the same user's next request, and the processor time it took."""

    queries: Queries
    state: Any
    cpu_ms: float


def rank(release: LoadedRelease, request: Request, state: Any) -> tuple[Queries, Any]:
    """The served path from a request and what is remembered of its user (None: nothing) to queries and what to remember next."""
    raise NotImplementedError("the model does not take remembered users yet: connect benchmarks.servers.direct.rank to it")


def timed(release: LoadedRelease, request: Request, state: Any) -> Answered:
    """`rank`, on the clock of this thread."""
    started = time.thread_time()
    queries, state = rank(release, request, state)
    return Answered(queries, state, 1000 * (time.thread_time() - started))


def measure_append(release: LoadedRelease, histories: Sequence[Sequence[StoredEvent]]) -> Appended:
    """A 256-event history with its last event new, against the same without anything remembered, user by user."""
    cold_ms, append_ms, page_ms, errors, mismatches = [], [], [], [], 0
    for events in histories:
        before, after = (request_of(release, events[:number]) for number in (WINDOW - 1, WINDOW))
        cold = answered_cold(release, after)
        for _ in range(ROUNDS):
            cold_ms.append(answered_cold(release, after).cpu_ms)
            state = timed(release, before, None).state
            appended = timed(release, after, state)
            append_ms.append(appended.cpu_ms)
        errors.append(np.abs(scores(release, appended.queries) - scores(release, cold.queries)).max())
        mismatches += top(release, appended.queries) != top(release, cold.queries)
        state = timed(release, before, None).state
        for number in range(WINDOW, WINDOW + PAGE):
            one = timed(release, request_of(release, events[:number]), state)
            state = one.state
            page_ms.append(one.cpu_ms)
    return Appended(
        cold_ms=float(np.median(cold_ms)),
        append_ms=float(np.median(append_ms)),
        page_ms=float(np.mean(page_ms)),
        max_error=float(max(errors)),
        id_mismatches=mismatches,
    )


def answered_cold(release: LoadedRelease, request: Request) -> Answered:
    """The model asked as the offline evaluation asks it."""
    started = time.thread_time()
    queries = answer(release.towers.contextualizer, release.towers.config.model, release.vectors_NV, [request])
    return Answered(queries, None, 1000 * (time.thread_time() - started))


def request_of(release: LoadedRelease, events: Sequence[StoredEvent]) -> Request:
    """The question a second after the last of the events."""
    history = UserHistory().extended(events)
    own = {release.rows[item_id]: item for item_id, item in history.items.items()}
    return Request(model_history(release, history.window), item_statistics_of(own), events[-1].time_ms + 1000)


def scores(release: LoadedRelease, queries: Queries) -> Floats:
    """Scores of the whole catalogue, [N]."""
    return queries.dense_scores(release.vectors_NV)[0].numpy()


def top(release: LoadedRelease, queries: Queries) -> list[int]:
    """Rows of the best items, best first."""
    order: list[int] = np.argsort(-scores(release, queries), kind="stable")[:TOP].tolist()
    return order


def stored(events: Sequence[Json], user_id: str) -> list[StoredEvent]:
    """Events as the history store keeps them."""
    return [to_stored(msgspec.convert(event, Event), user_id) for event in events]


async def measure_visits(release: LoadedRelease, histories: Path, connections: int) -> Visited:
    """Visits as the generator makes them, each question given straight to the engine with the user's history in hand."""
    replays, engine, asked = read_histories(histories), Engine(torch.get_num_threads(), connections), 0
    now = time.monotonic
    started = now() + WARM_S
    stop = started + SECONDS

    async def visit_on(number: int) -> None:
        nonlocal asked
        while now() < stop:
            number += connections
            replay = Replay.start(replays[number % len(replays)], str(number))
            history = UserHistory().extended(stored(replay.first_events()["events"], replay.user_id))
            for question in range(NUM_QUESTIONS):
                if question:
                    history = history.extended(stored(replay.next_event()["events"], replay.user_id))
                request = msgspec.convert(replay.question(), RecommendRequest)
                assert isinstance(request.timestamp, int)
                await engine.submit(partial(recommend, release, request, history, request.timestamp), math.inf)
                asked += started <= now() <= stop

    engine.start()
    await asyncio.gather(*(visit_on(number) for number in range(connections)))
    engine.close()
    return Visited(requests_per_s=asked / SECONDS)


def main() -> None:
    """Measure one thing."""
    what, store, histories, *rest = sys.argv[1:]
    release = load_release(Path(store))
    measured: Appended | Visited
    if what == "append":
        torch.set_num_threads(1)
        known = [
            [event for event in stored(history.events, history.user_id) if event.item_id in release.rows]
            for history in read_histories(Path(histories))
        ]
        measured = measure_append(release, [events for events in known if len(events) >= WINDOW + PAGE][:NUM_USERS])
    else:
        measured = asyncio.run(measure_visits(release, Path(histories), int(rest[0])))
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")


if __name__ == "__main__":
    main()
