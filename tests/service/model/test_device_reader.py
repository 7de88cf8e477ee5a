"""The reader of a device against that of the CPU: whole batches, through the kernels, with pages that come and go."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.serving_rivals.offline import offline_queries, offline_request
from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.model.device_model import BUCKETS, DeviceModel, graph_shapes
from service.model.pages import PagePool
from service.model.reader import UserQuery
from service.ranking.queries import new_state, queries_from, queries_of
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from tests.service.conftest import NOW_MS
from tests.service.placed import on_tensors, through_kernels, with_wide_heads


@pytest.fixture(scope="module")
def wide(release: LoadedRelease) -> LoadedRelease:
    return with_wide_heads(release)


@pytest.fixture(scope="module")
def log(shop_events: list[StoredEvent]) -> list[StoredEvent]:
    return sorted(shop_events, key=lambda e: e.time_ms)


def input_of(release: LoadedRelease, events: Sequence[StoredEvent]) -> ModelInput:
    return read_input(release, UserRequest(RecommendRequest(user_id="ann"), UserHistory().extended(events), NOW_MS))


def model_of(release: LoadedRelease) -> DeviceModel:
    assert release.device_model is not None
    return release.device_model


def from_scratch(release: LoadedRelease, inputs: Sequence[ModelInput]) -> list[UserQuery]:
    """What the reader of the CPU makes of whole histories."""
    on_cpu = replace(release, device_model=None)
    return queries_from(on_cpu, [new_state(on_cpu) for _ in inputs], inputs)


def check(release: LoadedRelease, queries: Sequence[UserQuery], inputs: Sequence[ModelInput], tolerance: float = 2e-4) -> None:
    for query, expected in zip(queries, from_scratch(release, inputs), strict=True):
        size = np.abs(expected.query_V).max()
        np.testing.assert_allclose(query.query_V, expected.query_V, rtol=0, atol=tolerance * size)
        assert query.past_rows_M.tolist() == expected.past_rows_M.tolist()
        np.testing.assert_allclose(query.past_scores_M, expected.past_scores_M, rtol=0, atol=10 * tolerance * size)


def check_others(release: LoadedRelease, queries: Sequence[UserQuery], num: int) -> None:
    """The best others are those of an exact search for the query itself."""
    for query in queries:
        assert query.others is not None
        rows, scores = release.search_many(query.query_V[None], num, [query.past_rows_M])[0]
        assert query.others[0].tolist() == rows.tolist()
        np.testing.assert_array_equal(query.others[1], scores)


def spoil_free_pages(pool: PagePool, random: Random) -> None:
    """NaN in the pages that nobody holds, which are then given out in another order."""
    assert pool.num_free == len(pool._free)
    pool.cache_L2NGCE[:, :, pool._free] = torch.nan
    random.shuffle(pool._free)


def grow(release: LoadedRelease, log: list[StoredEvent], sizes: Sequence[int], first: int, num_batches: int, seed: int) -> None:
    """Batches of users whose histories grow, begin anew or stay: the `first` of them, then any. The pool does not hold all."""
    random, served = Random(seed), on_tensors(release, pool_bytes=1)
    pool = model_of(served).pool
    pool.cache_L2NGCE.fill_(torch.nan)
    lengths = list(sizes)
    users = [(new_state(served), random.randrange(len(log) - 300)) for _ in lengths]
    for batch in range(num_batches):
        spoil_free_pages(pool, random)
        chosen = list(range(first)) if batch == 0 else random.sample(range(len(users)), random.randint(1, first))
        lengths = [min(n + random.choice([0, 1, 1, 5]), 256) if random.random() < 0.9 else random.randint(0, 9) for n in lengths]
        inputs = [input_of(served, log[users[u][1] : users[u][1] + lengths[u]]) for u in chosen]
        with through_kernels(seed + batch):
            queries = queries_from(served, [users[u][0] for u in chosen], inputs, [7] * len(chosen))
        check(release, queries, inputs)
        check_others(served, queries, 7)
    assert pool.counters.evictions > 0
    assert pool.counters.faults > 0


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pools of so many pages, whatever their bytes."""

    def set_pages(num_pages: int) -> None:
        make = PagePool.__init__

        def sized(self: PagePool, config: object, device: object, dtype: torch.dtype, num_bytes: int) -> None:
            probe = PagePool.__new__(PagePool)
            make(probe, config, device, dtype, 1 << 30)  # type: ignore[arg-type]
            make(self, config, device, dtype, num_pages * probe.page_bytes)  # type: ignore[arg-type]

        monkeypatch.setattr(PagePool, "__init__", sized)

    return set_pages


def test_kernels_read_what_comes_whatever_lies_in_other_pages(
    wide: LoadedRelease, log: list[StoredEvent], small_pool: Callable[[int], None]
) -> None:
    small_pool(5)
    grow(wide, log, sizes=[0, 1, 3, 62, 64, 70], first=6, num_batches=5, seed=0)


@pytest.mark.kernels
@pytest.mark.parametrize("seed", range(3))
def test_kernels_read_batches_of_32_with_up_to_256_events(
    wide: LoadedRelease, log: list[StoredEvent], small_pool: Callable[[int], None], seed: int
) -> None:
    sizes = [0, 0, 1, 1, 2, 63, 64, 65, 128, 255, 256, *(Random(seed).randint(0, 256) for _ in range(37))]
    small_pool(sum(-(-size // 64) for size in sizes[:32]))  # the first batch is read at once, and fills it
    grow(wide, log, sizes=sizes, first=32, num_batches=5, seed=seed)


def test_a_batch_whose_pages_are_more_than_all_is_read_in_parts(
    release: LoadedRelease, log: list[StoredEvent], small_pool: Callable[[int], None]
) -> None:
    small_pool(4)
    served = on_tensors(release)
    inputs = [input_of(served, log[start : start + length]) for start, length in ((0, 200), (5, 1), (9, 256), (3, 64), (1, 0))]
    states = [new_state(served) for _ in inputs]
    for _ in range(2):
        check(release, queries_from(served, states, inputs), inputs)


def errors(queries: Sequence[UserQuery], exact: Sequence[UserQuery]) -> tuple[float, float]:
    """The largest error of a query, and of the score of a past item."""
    pairs = list(zip(queries, exact, strict=True))
    return (
        max(float(np.abs(q.query_V - e.query_V).max()) for q, e in pairs),
        max(float(np.abs(q.past_scores_M - e.past_scores_M).max(initial=0)) for q, e in pairs),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_errors_are_no_larger_than_those_of_torch(
    wide: LoadedRelease, log: list[StoredEvent], dtype: torch.dtype
) -> None:
    """Than of the whole model in that precision on a CPU."""
    served = on_tensors(wide, dtype)
    assert model_of(served).pool.cache_L2NGCE.dtype == dtype
    states = [new_state(served) for _ in range(3)]
    for more in (0, 1, 4):
        inputs = [input_of(served, log[start : start + length + more]) for start, length in ((0, 100), (7, 1), (50, 200))]
        exact, queries = from_scratch(wide, inputs), queries_from(served, states, inputs)
        with torch.autocast("cpu", dtype):
            in_torch = [in_half(wide, model_input) for model_input in inputs]
        ours, theirs = errors(queries, exact), errors(in_torch, exact)
        assert 0 < ours[0] <= 1.5 * theirs[0]
        assert ours[1] <= 1.5 * theirs[1]


def in_half(release: LoadedRelease, model_input: ModelInput) -> UserQuery:
    """The query of the offline evaluation, past items in the order of the request."""
    queries = offline_queries(release, offline_request(release, model_input.history, NOW_MS))
    scores_M = queries.past_scores(release.vectors_NV).float().numpy()
    return UserQuery(queries.vectors_QV[0].float().numpy(), queries.past_rows_M.numpy(), scores_M)


def replaying(calls: list[int]) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """A stand-in for CUDA graphs: what was captured runs again, into the tensor that it made first."""

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        results = run()

        def replay() -> Tensor:
            calls.append(len(results))
            with torch.inference_mode():
                return results.copy_(run())

        return replay

    return capture


def test_one_new_event_each_is_replayed_and_anything_else_is_not(wide: LoadedRelease, log: list[StoredEvent]) -> None:
    served, replays = on_tensors(wide), list[int]()
    model_of(served).capture(replaying(replays))
    states = [new_state(served) for _ in range(5)]
    num_replayed = []
    for lengths in ((3, 0, 9, 90, 20), (4, 0, 10, 91, 21), (4, 1, 11, 91, 22), (6, 2, 12, 92, 23), (6, 2, 12, 92, 23)):
        replays.clear()
        inputs = [input_of(served, log[9 * place : 9 * place + length]) for place, length in enumerate(lengths)]
        queries = queries_from(served, states, inputs, [7] * 5)
        check(wide, queries, inputs)
        check_others(served, queries, 7)
        num_replayed.append(len(replays))
    assert num_replayed == [0, 1, 1, 0, 1]


def test_a_request_that_searches_nothing_may_have_any_number_of_past_items(wide: LoadedRelease, log: list[StoredEvent]) -> None:
    served, replays = on_tensors(wide), list[int]()
    model_of(served).capture(replaying(replays))
    inputs, states = [input_of(served, log[:250]), input_of(served, log[:9])], [new_state(served) for _ in range(2)]
    assert len(inputs[0].past_items(served)) > 64
    for _ in range(2):
        queries = queries_from(served, states, inputs, [0, 5])
        check(wide, queries, inputs)
        assert queries[0].others is None
        check_others(served, queries[1:], 5)
    assert len(replays) == 1


def test_graphs_are_captured_for_every_size_of_batch() -> None:
    for searches in (True, False):
        shapes = graph_shapes(searches)
        assert {shape.num_requests for shape in shapes} == set(BUCKETS)
        assert {shape.num_events - shape.num_requests for shape in shapes} == {1}
        assert {bool(shape.num_found) for shape in shapes} == {searches}


def test_too_little_memory_fails_the_batch_alone_frees_its_pages_and_is_counted(
    release: LoadedRelease, log: list[StoredEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, cache = on_tensors(release), UserCache(1 << 28)
    model, inputs = model_of(served), [input_of(served, log[:100]), input_of(served, log[50:99])]
    keys = [("user", "ann"), ("user", "bob")]
    queries_of(served, keys[:1], [input_of(served, log[:90])], cache)
    results = DeviceModel.results

    def exhausted(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("as a GPU says it")

    monkeypatch.setattr(DeviceModel, "results", exhausted)
    with pytest.raises(ApiError, match="too little memory") as raised:
        queries_of(served, keys, inputs, cache)
    assert raised.value.code == "overloaded"
    assert (cache.counters.out_of_memory, model.pool.num_free) == (1, model.pool.num_pages)
    monkeypatch.setattr(DeviceModel, "results", results)
    check(release, queries_of(served, keys, inputs, cache), inputs)
    assert cache.counters.misses == 4, "the states of the batch that failed were not kept"


def test_an_answer_that_the_search_cannot_prove_is_searched_for_again(
    release: LoadedRelease, log: list[StoredEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, inputs = on_tensors(release), [input_of(release, log[:9]), input_of(release, log[3:40])]
    parts_of = DeviceModel.parts_of

    def spoiled(self: DeviceModel, *arguments: object) -> list[Tensor]:
        queries_QV, past_M, rows_QK, scores_QK, unproven_Q = parts_of(self, *arguments)  # type: ignore[arg-type]
        rows_QK[1], unproven_Q[1] = 0, 1
        return [queries_QV, past_M, rows_QK, scores_QK, unproven_Q]

    monkeypatch.setattr(DeviceModel, "parts_of", spoiled)
    check_others(served, queries_from(served, [new_state(served) for _ in inputs], inputs, [5, 5]), 5)
