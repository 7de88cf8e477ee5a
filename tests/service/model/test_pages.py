"""Pages: who holds them, who loses them, and that they come back whatever happens to the memories."""

import gc
from collections.abc import Sequence

import pytest
import torch

from service.model.pages import PagedMemory, PagePool, PagePools
from service.release.loaded import LoadedRelease
from twotower.device import CPU
from twotower.errors import ReleaseMismatch
from twotower.model.config import ModelConfig

F32 = torch.float32


@pytest.fixture
def config(release: LoadedRelease) -> ModelConfig:
    return release.towers.config.model


def pool_of(config: ModelConfig, num_pages: int) -> PagePool:
    page_bytes = 2 * config.num_layers * config.num_kv_heads * config.page * config.width // config.num_heads * 4
    return PagePool(config, CPU, F32, num_pages * page_bytes + 1)


@pytest.fixture
def pool(config: ModelConfig) -> PagePool:
    return pool_of(config, 6)


def use(pool: PagePool, memories: Sequence[PagedMemory], lengths: Sequence[int]) -> None:
    pool.make_room(memories, lengths)
    for memory, length in zip(memories, lengths, strict=True):
        memory.grown(length)
    pool.put_back(memories)


def test_a_pool_takes_as_many_pages_as_its_bytes_hold(pool: PagePool, config: ModelConfig) -> None:
    assert (pool.num_pages, pool.num_free, pool.cache_L2NGCE.shape[2]) == (6, 6, 6)
    assert pool.cache_L2NGCE.nbytes == 6 * pool.page_bytes
    with pytest.raises(ReleaseMismatch, match="too few: one history takes up to"):
        pool_of(config, 3)


def test_a_memory_gets_a_page_for_every_64_events_and_keeps_those_it_has(pool: PagePool) -> None:
    memory = PagedMemory(pool)
    held = []
    for length in (1, 64, 65, 130):
        use(pool, [memory], [length])
        held.append(list(memory.pages))
    assert [len(pages) for pages in held] == [1, 1, 2, 3]
    assert held[3][:2] == held[2]
    memory.cut(70)
    assert (memory.length, list(memory.pages), pool.num_free) == (70, held[2], 4)


def test_who_came_once_loses_pages_before_who_came_back(pool: PagePool) -> None:
    regular, first, second, third = (PagedMemory(pool) for _ in range(4))
    for memory in (regular, regular, first, second):
        use(pool, [memory], [128])
    use(pool, [third], [65])
    assert [memory.length for memory in (regular, first, second, third)] == [128, 0, 128, 65]
    assert (pool.counters.evictions, pool.counters.faults) == (1, 0)
    use(pool, [first], [1])
    assert (pool.counters.evictions, pool.counters.faults) == (2, 1)
    assert [memory.length for memory in (regular, first, second, third)] == [128, 1, 0, 65]


def test_those_who_came_back_leave_room_for_new_users(pool: PagePool) -> None:
    """Four fifths of the pages are for those who came back: of three with two pages each, the oldest counts as new."""
    regulars = [PagedMemory(pool) for _ in range(3)]
    for _ in range(2):
        for memory in regulars:
            use(pool, [memory], [128])
    use(pool, [PagedMemory(pool)], [1])
    assert [memory.length for memory in regulars] == [0, 128, 128]


def test_memories_in_use_keep_their_pages(pool: PagePool) -> None:
    old, new = PagedMemory(pool), PagedMemory(pool)
    use(pool, [old], [128])
    use(pool, [new, old], [256, 128])
    assert (new.length, old.length) == (256, 128)
    use(pool, [PagedMemory(pool), old], [200, 128])
    assert (new.length, old.length) == (0, 128)


def test_pages_of_memories_that_are_gone_are_free(pool: PagePool) -> None:
    memory = PagedMemory(pool)
    use(pool, [memory], [256])
    del memory
    gc.collect()
    assert pool.num_free == 6
    use(pool, [PagedMemory(pool), PagedMemory(pool)], [128, 256])
    assert pool.counters.evictions == 0


def test_a_copy_shares_full_pages_and_neither_writes_into_them(pool: PagePool) -> None:
    memory = PagedMemory(pool)
    use(pool, [memory], [150])
    copy = memory.copy()
    assert (copy.length, list(copy.pages)) == (128, list(memory.pages[:2]))
    use(pool, [copy], [140])
    assert copy.pages[2] != memory.pages[2]
    memory.cut(100)  # its second page is the copy's too, so that it is not written to
    assert (memory.length, len(memory.pages)) == (64, 1)
    use(pool, [memory], [100])
    assert memory.pages[1] != copy.pages[1]
    del memory
    gc.collect()
    assert (pool.num_free, len(copy.pages)) == (3, 3)


def test_what_is_dropped_is_free(pool: PagePool) -> None:
    memories = [PagedMemory(pool), PagedMemory(pool)]
    pool.make_room(memories, [100, 200])
    pool.drop(memories)
    assert (pool.num_free, [memory.length for memory in memories]) == (6, [0, 0])
    use(pool, [PagedMemory(pool), PagedMemory(pool)], [128, 256])


def test_releases_of_one_shape_share_a_pool_as_long_as_one_of_them_lives(config: ModelConfig) -> None:
    pools = PagePools(1 << 20)
    assert pools.needed_bytes(config, CPU, F32) == 1 << 20
    first = pools.pool_for(config, CPU, F32)
    assert pools.needed_bytes(config, CPU, F32) == 0
    assert pools.pool_for(config, CPU, F32) is first
    assert pools.pool_for(config, CPU, torch.bfloat16) is not first
    del first
    gc.collect()
    assert pools.needed_bytes(config, CPU, F32) == 1 << 20
