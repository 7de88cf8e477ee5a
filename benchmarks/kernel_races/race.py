"""A race between implementations of one op at one shape: equal inputs, answers compared with float64, equal timing."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

ROUNDS, WARMUP = 50, 5
CACHE_BYTES = 64 << 20  # more than a GPU's L2; inputs are rotated over three times as much, so that they are not cached

Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """One op at one shape and its implementations; "ours" is the public op. `error` is the largest error of an answer."""

    op: str
    shape: str
    num_bytes: float  # read and written at least
    num_flop: float
    inputs: Callable[[int], Inputs]  # made from a seed, on the device of the race
    contenders: Mapping[str, Callable[..., Any]]
    error: Callable[[Any, Inputs], float]
    tolerance: float
    goal_us: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in microseconds. Only `timed` makes one, so that the table has measured times only."""

    median_us: float  # with inputs that are not cached
    p20_us: float
    p80_us: float
    warm_us: float
    graph_us: float | None  # replayed as a CUDA graph; None if the op cannot be captured
    peak_mib: float
    first_s: float  # of the first call, including compilation


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one contender. Without a timing, `note` may say why."""

    race: Race
    contender: str
    error: float | None
    timing: Timing | None
    note: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether the error is above the tolerance or NaN."""
        return self.error is not None and not self.error <= self.race.tolerance


@contextmanager
def poisoned() -> Iterator[None]:
    """Make `torch.empty` return NaN, so that values that a kernel does not write are detected."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def run_race(race: Race, *, timing: bool) -> list[Result]:
    """Check every contender and, if `timing`, time those whose answers are right."""
    results = []
    for name, run in race.contenders.items():
        try:
            first = race.inputs(0)
            with poisoned():
                error = race.error(run(*first), first)
        except (RuntimeError, ImportError, TypeError, ValueError) as problem:  # of a peer: too little memory, or another version
            if name == "ours":
                raise
            results.append(Result(race, name, None, None, f"failed: {str(problem).splitlines()[0][:60]}"))
            continue
        result = Result(race, name, error, None, "WRONG" if not error <= race.tolerance else "")
        results.append(replace(result, timing=timed(race, run)) if timing and not result.is_wrong else result)
    return results


def timed(race: Race, run: Callable[..., Any]) -> Timing:
    """Time by CUDA events: with cold caches, with warm caches, and as a CUDA graph."""
    started = time.perf_counter()
    first = race.inputs(0)
    run(*first)
    torch.cuda.synchronize()
    first_s = time.perf_counter() - started
    copies = min(16, int(3 * CACHE_BYTES // max(race.num_bytes, 1)) + 1)
    rotated = [first, *(race.inputs(seed) for seed in range(1, copies))]
    torch.cuda.reset_peak_memory_stats()
    resident = torch.cuda.memory_allocated()
    flush = torch.empty(4 * CACHE_BYTES, dtype=torch.int8, device="cuda")
    cold = [_events(partial(run, *rotated[i % copies]), flush) for i in range(WARMUP + ROUNDS)][WARMUP:]
    peak = (torch.cuda.max_memory_allocated() - resident - flush.numel()) / 2**20
    warm = [_events(partial(run, *first), None) for _ in range(WARMUP + ROUNDS)][WARMUP:]
    fifths = statistics.quantiles(cold, n=5)
    return Timing(statistics.median(cold), fifths[0], fifths[-1], statistics.median(warm), _replayed(run, first), peak, first_s)


def _events(call: Callable[[], Any], flush: torch.Tensor | None) -> float:
    if flush is not None:
        flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1000 * float(start.elapsed_time(end))


def _replayed(run: Callable[..., Any], inputs: Inputs) -> float | None:
    """Median microseconds of a captured graph; None for an op that waits for the GPU and so cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run(*inputs)
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return statistics.median([_events(graph.replay, None) for _ in range(WARMUP + ROUNDS)][WARMUP:])


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The measured peak rates of this GPU, of which shares are reported."""

    copy_bytes_s: float
    cached_copy_bytes_s: float
    tensor_flop_s: float
    launch_us: float


def measured_ceilings() -> Ceilings:
    """Measure copies of 1 GiB and of 16 MiB, a bf16 product of 8192 cubed, and an empty launch."""
    large, small = (torch.empty(size, dtype=torch.int8, device="cuda") for size in (1 << 30, 16 << 20))
    a, number = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda"), torch.zeros(1, device="cuda")
    calls: Sequence[Callable[[], Any]] = (large.clone, small.clone, lambda: a @ a, number.zero_)
    large_us, small_us, product_us, launch_us = (
        statistics.median([_events(call, None) for _ in range(WARMUP + ROUNDS)][WARMUP:]) for call in calls
    )
    return Ceilings(2e6 * large.numel() / large_us, 2e6 * small.numel() / small_us, 2e6 * 8192**3 / product_us, launch_us)


def floor_us(race: Race, ceilings: Ceilings) -> float:
    """The least time that the op can take on this GPU, by the measured ceilings."""
    return 1e6 * max(race.num_bytes / ceilings.copy_bytes_s, race.num_flop / ceilings.tensor_flop_s)
