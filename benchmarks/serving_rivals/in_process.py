"""The model and the engine called directly, without HTTP, as the reference for the server.

`python -m benchmarks.serving_rivals.in_process append|cold|visits STORE HISTORIES [CONNECTIONS]` prints one line of JSON. It runs
as a separate process, so that it can be pinned to the core of the servers.

N: items
"""

import asyncio
import gc
import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from benchmarks.serving_rivals.bare_products import BareProducts, numpy_product, torch_product
from benchmarks.serving_rivals.offline import offline_queries, offline_request
from loadtests.generator import NUM_QUESTIONS, WARM_S
from loadtests.traffic import MOMENT_MS, Json, Replay, read_histories
from service.api.schemas import Event, RecommendRequest
from service.engine.thread import Batched, Engine, Limits
from service.histories.history import StoredEvent, UserHistory
from service.histories.intake import to_stored
from service.model.reader import UserQuery
from service.ranking.queries import queries_of
from service.ranking.recommend import recommend_many
from service.ranking.user_request import UserRequest, cost_of, read_input
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.states.cache import UserCache
from twotower.data.features import Floats
from twotower.data.window import PAGE, WINDOW

NUM_USERS = 24
ROUNDS, COLD_ROUNDS = 5, 15
TOP = 10
SECONDS, NUM_VISITS = 6.0, 2000
REMEMBERED_BYTES = 2**30  # enough for all users
COLD_BYTES = 16 * 2**20  # some 25 users


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """Reading one new event compared with reading the whole history. Median CPU times of the model, in milliseconds."""

    offline_ms: float  # whole history, by the code of the offline evaluation
    cold_ms: float  # whole history, by the code of the service
    append_ms: float
    page_ms: float  # mean over 64 events in a row, one of which moves the anchor
    max_error: float  # of the score of any item, compared with the offline evaluation
    id_mismatches: int  # users whose top 10 differ


class ColdRead(msgspec.Struct, frozen=True, kw_only=True):
    """A whole history of 256 events read by the service, against the matrix products of the layers. Medians."""

    gemm_share: float  # of the rate of torch's products that reading reaches, everything beside the products included
    fastest_share: float  # of the rate of torch's or numpy's products, whichever are faster
    torch_gflops: float
    numpy_gflops: float


class Visited(msgspec.Struct, frozen=True, kw_only=True):
    """Requests per second of the engine alone."""

    requests_per_s: float


def model_work(
    release: LoadedRelease, user_id: str, history: UserHistory, now_ms: int, cache: UserCache
) -> Callable[[], UserQuery]:
    """The model's part of a request, as a function to run. It uses and updates the cached state of the user."""
    user_request = UserRequest(RecommendRequest(user_id=user_id), history, now_ms)
    model_input = read_input(release, user_request)
    return lambda: queries_of(release, [user_request.key], [model_input], cache)[0]


def measure_append(release: LoadedRelease, histories: Sequence[Sequence[StoredEvent]]) -> Appended:
    """Compare, for each history of 256 events, reading only the last event with reading all of them."""
    offline_ms, cold_ms, append_ms, page_ms, errors, mismatches = [], [], [], [], list[float](), 0
    cache = UserCache(REMEMBERED_BYTES)
    for household, events in enumerate(histories):
        before = UserHistory().extended(events[: WINDOW - 1])
        history = before.extended([events[WINDOW - 1]])
        for number in range(ROUNDS):
            user_id = f"{household}-{number}"
            offline_N, ms = offline(release, history)
            offline_ms.append(ms)
            cold_ms.append(served(release, f"{user_id}-cold", history, cache)[1])
            served(release, user_id, before, cache)
            query, ms = served(release, user_id, history, cache)
            append_ms.append(ms)
        appended_N = dense(release, query)
        errors.append(float(np.abs(appended_N - offline_N).max()))
        mismatches += top(appended_N) != top(offline_N)
        for event in events[WINDOW : WINDOW + PAGE]:
            history = history.extended([event])
            page_ms.append(served(release, user_id, history, cache)[1])
    return Appended(
        offline_ms=float(np.median(offline_ms)),
        cold_ms=float(np.median(cold_ms)),
        append_ms=float(np.median(append_ms)),
        page_ms=float(np.mean(page_ms)),
        max_error=max(errors),
        id_mismatches=mismatches,
    )


def measure_cold(release: LoadedRelease, histories: Sequence[Sequence[StoredEvent]]) -> ColdRead:
    """Read each history anew, and compute bare products right after, so that both meet the same machine.

    The budget for user states is small, as on a server that has been up for a while: a new state gets the memory of an old one.
    """
    products, cache = BareProducts.of(release.towers.config.model, WINDOW), UserCache(COLD_BYTES)
    measured = []
    for number, (_, events) in enumerate(itertools.product(range(COLD_ROUNDS), histories)):
        _, ms = served(release, str(number), UserHistory().extended(events[:WINDOW]), cache)
        gflops = [products.gflops_per_s(product) for product in (torch_product, numpy_product)]
        reached = products.all_flops / ms / 1e6
        measured.append((reached / gflops[0], reached / max(gflops), *gflops))
    share, fastest_share, of_torch, of_numpy = np.median(measured, axis=0).tolist()
    return ColdRead(gemm_share=share, fastest_share=fastest_share, torch_gflops=of_torch, numpy_gflops=of_numpy)


def served(release: LoadedRelease, user_id: str, history: UserHistory, cache: UserCache) -> tuple[UserQuery, float]:
    """The query of the service a second after the last event, and the CPU time in milliseconds."""
    work = model_work(release, user_id, history, history.events[-1].time_ms + MOMENT_MS, cache)
    started = time.thread_time()
    return work(), 1000 * (time.thread_time() - started)


def offline(release: LoadedRelease, history: UserHistory) -> tuple[Floats, float]:
    """Scores [N] of the offline evaluation, and the CPU time of the model in milliseconds."""
    request = offline_request(release, history, history.events[-1].time_ms + MOMENT_MS)
    started = time.thread_time()
    queries = offline_queries(release, request)
    ms = 1000 * (time.thread_time() - started)
    return queries.dense_scores(release.vectors_NV)[0].numpy(), ms


def dense(release: LoadedRelease, query: UserQuery) -> Floats:
    """Scores of the whole catalogue, [N]."""
    scores_N = (release.vectors_NV @ torch.from_numpy(query.query_V)).numpy()
    scores_N[query.past_rows_M] = query.past_scores_M
    return scores_N


def top(scores_N: Floats) -> list[int]:
    """Rows of the best items, best first."""
    order: list[int] = np.argsort(-scores_N, kind="stable")[:TOP].tolist()
    return order


def stored(events: Sequence[Json], user_id: str) -> list[StoredEvent]:
    """Events as the history store keeps them."""
    return [to_stored(msgspec.convert(event, Event), user_id) for event in events]


def visit(replay: Replay) -> list[UserRequest[RecommendRequest]]:
    """The questions of one visit, each with the user's history in hand."""
    history = UserHistory().extended(stored(replay.first_events()["events"], replay.user_id))
    result = [asked_now(replay, history)]
    while len(result) < NUM_QUESTIONS:
        history = history.extended(stored(replay.next_event()["events"], replay.user_id))
        result.append(asked_now(replay, history))
    return result


def asked_now(replay: Replay, history: UserHistory) -> UserRequest[RecommendRequest]:
    """The question a second after the last event."""
    body = replay.question()
    return UserRequest(msgspec.convert(body, RecommendRequest), history, body["timestamp"])


async def measure_visits(
    release: LoadedRelease, visits: Sequence[list[UserRequest[RecommendRequest]]], connections: int
) -> Visited:
    """Visits as the generator makes them, each question given straight to the engine, until the time or the visits are over."""
    engine, waiting, num_asked = Engine(torch.get_num_threads(), Limits(max_wait_s=math.inf)), iter(visits), 0
    batched = Batched(partial(recommend_many, cache=UserCache(REMEMBERED_BYTES)), release)
    now = time.monotonic
    started = now() + WARM_S
    stop = started + SECONDS

    async def visit_on() -> None:
        nonlocal num_asked
        for asked in itertools.chain.from_iterable(waiting):
            with engine.take_place(cost_of(release, asked, ()), math.inf) as place:
                await engine.submit_to(batched, asked, place)
            num_asked += started <= now() <= stop
            if now() > stop:
                return

    engine.start()
    await asyncio.gather(*(visit_on() for _ in range(connections)))
    engine.close()
    return Visited(requests_per_s=num_asked / (min(now(), stop) - started))


def main() -> None:
    """Run the measurement that the command line names."""
    what, store, histories, *rest = sys.argv[1:]
    release = load_release(Path(store))
    measured: Appended | ColdRead | Visited
    if what in ("append", "cold"):
        torch.set_num_threads(1)
        known = [
            [event for event in stored(history.events, history.user_id) if event.item_id in release.rows]
            for history in read_histories(Path(histories))
        ]
        long = [events for events in known if len(events) >= WINDOW + PAGE][:NUM_USERS]
        measured = measure_append(release, long) if what == "append" else measure_cold(release, long)
    else:
        replayed = itertools.islice(itertools.cycle(read_histories(Path(histories))), NUM_VISITS)
        visits = [visit(Replay.start(history, str(number))) for number, history in enumerate(replayed)]
        gc.freeze()  # a million objects that stay in memory; collecting them again and again is no work of the engine
        measured = asyncio.run(measure_visits(release, visits, int(rest[0])))
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")


if __name__ == "__main__":
    main()
