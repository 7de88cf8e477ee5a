"""Keys and values of histories on a device: pages of events in one pool, which is allocated once.

A page holds the events of one history, or of a history and its copies, in all layers. When pages run out, those of the user who
was there longest ago are taken, first among users with one request; what was in them is read again when that user comes back.

L: layers, N: pages, G: key/value heads, C: events of a page, E: head width
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary, finalize

import torch

from twotower.errors import ReleaseMismatch
from twotower.model.config import ModelConfig

_PROTECTED = 0.8  # share of the pages that users with more than one request may fill


@dataclass(slots=True, eq=False)
class _Held:
    """The pages of one memory, in the order of its events."""

    pages: list[int]
    num_uses: int = 0
    was_evicted: bool = False


@dataclass(slots=True)
class PageCounters:
    """Counts of a pool since it was made."""

    evictions: int = 0  # memories whose pages were taken for another one
    faults: int = 0  # memories that had been evicted when they were used again


class PagedMemory:
    """Implements `Memory` with pages of a pool. It does not keep the last hidden state: a query reads the last event again."""

    __slots__ = ("__weakref__", "_held", "_length", "_pool")

    def __init__(self, pool: "PagePool") -> None:
        self._pool, self._held, self._length = pool, _Held([]), 0
        # Memories are freed by whichever thread frees their release.
        finalize(self, pool.gone.append, self._held).atexit = False

    @property
    def length(self) -> int:
        """See `Memory`."""
        return self._length if self._held.pages else 0

    @property
    def num_bytes(self) -> int:
        """None of the budget of the `UserCache`: the pool has a budget of its own."""
        return 0

    @property
    def knows_last(self) -> bool:
        """See `Memory`."""
        return False

    @property
    def pages(self) -> Sequence[int]:
        """The pages, in the order of the events."""
        return self._held.pages

    def cut(self, length: int) -> None:
        """See `Memory`. A page that a copy shares is not written to: then the events before it are kept alone."""
        if length < self.length:
            page, rest = divmod(length, self._pool.page)
            if rest and self._pool.is_shared(self._held.pages[page]):
                rest = 0
            self._pool.give_back(self._held, page + (rest > 0))
            self._length = page * self._pool.page + rest

    def copy(self) -> "PagedMemory":
        """See `Memory`. The copy shares the full pages; later events must be read again."""
        copy = PagedMemory(self._pool)
        num_full = self.length // self._pool.page
        copy._length = num_full * self._pool.page
        self._pool.share(copy._held, self._held.pages[:num_full])
        return copy

    def grown(self, length: int) -> None:
        """Note that the events up to `length` were read."""
        self._length = length


class PagePool:
    """All pages of a device, for models of one shape. Used by the engine's thread; only `gone` by any."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, num_bytes: int) -> None:
        self.page, head_width = config.page, config.width // config.num_heads
        one = (config.num_kv_heads, config.page, head_width)
        self.page_bytes = 2 * config.num_layers * one[0] * one[1] * one[2] * dtype.itemsize
        self.num_pages = num_bytes // self.page_bytes
        self.most_pages = config.window // config.page  # of one history
        if self.num_pages < self.most_pages:
            raise ReleaseMismatch(
                f"{num_bytes:,} bytes for the pages of histories are too few: one history takes up to "
                f"{self.most_pages * self.page_bytes:,}. Give them more."
            )
        shape = (config.num_layers, 2, self.num_pages, *one)
        self.cache_L2NGCE = torch.empty(shape, dtype=dtype, device=device)
        self.counters = PageCounters()
        self.gone: deque[_Held] = deque()  # pages of memories that no longer exist
        self._free = list(range(self.num_pages))[::-1]
        self._num_holders = [0] * self.num_pages
        self._once: OrderedDict[int, _Held] = OrderedDict()
        self._again: OrderedDict[int, _Held] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        self._collect()
        return len(self._free)

    def is_shared(self, page: int) -> bool:
        """Whether several memories hold a page."""
        return self._num_holders[page] > 1

    def share(self, held: _Held, pages: Sequence[int]) -> None:
        """Let one more memory hold these pages."""
        held.pages = list(pages)
        for page in pages:
            self._num_holders[page] += 1
        self._keep(held)

    def give_back(self, held: _Held, num_kept: int = 0) -> None:
        """Take all but the first pages from a memory."""
        for page in held.pages[num_kept:]:
            self._num_holders[page] -= 1
            if not self._num_holders[page]:
                self._free.append(page)
        del held.pages[num_kept:]

    def make_room(self, memories: Sequence[PagedMemory], lengths: Sequence[int]) -> None:
        """Give each memory pages for so many events. All of them together must fit into the pool.

        They are in use until `put_back`: until then nothing is taken from them.
        """
        self._collect()
        for memory in memories:
            held = memory._held
            self._once.pop(id(held), None)
            self._again.pop(id(held), None)
            self.counters.faults += held.was_evicted
            held.was_evicted = False
        for memory, length in zip(memories, lengths, strict=True):
            held = memory._held
            if not held.pages:
                memory._length = 0
            while len(held.pages) * self.page < length:
                if not self._free:
                    self._evict()
                    continue
                page = self._free.pop()
                self._num_holders[page] = 1
                held.pages.append(page)

    def put_back(self, memories: Iterable[PagedMemory]) -> None:
        """Note that these memories were used just now, and may be taken from again."""
        for memory in memories:
            memory._held.num_uses += 1
            self._keep(memory._held)
        while len(self._again) > 1 and sum(len(held.pages) for held in self._again.values()) > _PROTECTED * self.num_pages:
            key, oldest = self._again.popitem(last=False)
            self._once[key] = oldest

    def drop(self, memories: Iterable[PagedMemory]) -> None:
        """Forget all that these memories hold."""
        for memory in memories:
            self._once.pop(id(memory._held), None)
            self._again.pop(id(memory._held), None)
            self.give_back(memory._held)

    def _keep(self, held: _Held) -> None:
        if held.pages:
            (self._again if held.num_uses > 1 else self._once)[id(held)] = held

    def _evict(self) -> None:
        """Take the pages of the memory that was used longest ago."""
        segment = self._once or self._again
        assert segment, "the memories in use fit into the pool"
        _, held = segment.popitem(last=False)
        self.give_back(held)
        held.was_evicted = True
        self.counters.evictions += 1

    def _collect(self) -> None:
        """Free the pages of memories that no longer exist."""
        while self.gone:
            held = self.gone.popleft()
            self._once.pop(id(held), None)
            self._again.pop(id(held), None)
            self.give_back(held)


class PagePools:
    """The pools of the releases of a process. Releases whose models have the same shape share one."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes  # of each pool
        self._pools: WeakValueDictionary[Hashable, PagePool] = WeakValueDictionary()

    def needed_bytes(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
        """Bytes that `pool_for` would take now."""
        return 0 if _key(config, device, dtype) in self._pools else self.num_bytes

    def pool_for(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> PagePool:
        """The pool for models of this shape, which is made if there is none."""
        key = _key(config, device, dtype)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = PagePool(config, device, dtype, self.num_bytes)
        return pool


def _key(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Hashable:
    sizes = (config.num_layers, config.num_kv_heads, config.width // config.num_heads, config.page, config.window)
    return (*sizes, str(device), dtype)
