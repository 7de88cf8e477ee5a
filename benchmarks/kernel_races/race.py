"""A race of implementations of one op at one shape: the same inputs, each answer held against float64, each timed alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

ROUNDS, WARMUP = 50, 5
CACHE_BYTES = 64 << 20  # more than a GPU's L2 keeps: inputs are rotated over three times as much

Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """`ours` is the public op. `error` is the worst relative error of an answer against float64, computed on the CPU."""

    op: str
    shape: str
    num_bytes: float  # that must be read and written at least
    num_flop: float
    inputs: Callable[[int], Inputs]  # by seed, on the device of the contest
    contenders: Mapping[str, Callable[..., Any]]
    error: Callable[[Any, Inputs], float]
    tolerance: float
    goal_us: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds. Made by `timed` alone: there is no other way to a number in the table."""

    median_us: float  # inputs not in the cache
    p20_us: float
    p80_us: float
    warm_us: float
    graph_us: float | None  # replayed as a CUDA graph, where the op can be captured
    peak_mib: float
    first_s: float  # with what is compiled


@dataclass(frozen=True, slots=True)
class Result:
    """Of one contender; no timing where none was taken, with the reason."""

    contest: Contest
    contender: str
    error: float | None
    timing: Timing | None
    note: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether the answer is further from float64's than it may be; NaN is."""
        return self.error is not None and not self.error <= self.contest.tolerance


@contextmanager
def poisoned() -> Iterator[None]:
    """What `torch.empty` returns is NaN, so that what a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def hold(contest: Contest, *, timing: bool) -> list[Result]:
    """Check every contender and time those that are right, where there is something to time."""
    results = []
    for name, run in contest.contenders.items():
        try:
            first = contest.inputs(0)
            with poisoned():
                error = contest.error(run(*first), first)
        except (RuntimeError, ImportError, TypeError, ValueError) as problem:  # a peer's: too little memory, another version
            if name == "ours":
                raise
            results.append(Result(contest, name, None, None, f"failed: {str(problem).splitlines()[0][:60]}"))
            continue
        result = Result(contest, name, error, None, "WRONG" if not error <= contest.tolerance else "")
        results.append(replace(result, timing=timed(contest, run)) if timing and not result.is_wrong else result)
    return results


def timed(contest: Contest, run: Callable[..., Any]) -> Timing:
    """By CUDA events: with cold caches over rotated inputs, with warm ones, and as a graph."""
    started = time.perf_counter()
    one = contest.inputs(0)
    run(*one)
    torch.cuda.synchronize()
    first_s = time.perf_counter() - started
    copies = min(16, int(3 * CACHE_BYTES // max(contest.num_bytes, 1)) + 1)
    rotated = [one, *(contest.inputs(seed) for seed in range(1, copies))]
    torch.cuda.reset_peak_memory_stats()
    resident = torch.cuda.memory_allocated()
    flush = torch.empty(4 * CACHE_BYTES, dtype=torch.int8, device="cuda")
    cold = [_events(partial(run, *rotated[i % copies]), flush) for i in range(WARMUP + ROUNDS)][WARMUP:]
    peak = (torch.cuda.max_memory_allocated() - resident - flush.numel()) / 2**20
    warm = [_events(partial(run, *one), None) for _ in range(WARMUP + ROUNDS)][WARMUP:]
    fifths = statistics.quantiles(cold, n=5)
    return Timing(statistics.median(cold), fifths[0], fifths[-1], statistics.median(warm), _replayed(run, one), peak, first_s)


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
    """Median microseconds of a captured graph; None for what waits for the GPU on its way."""
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
    """What this GPU does at best, measured; shares are of these."""

    copy_bytes_s: float
    cached_copy_bytes_s: float
    tensor_flop_s: float
    launch_us: float


def measured_ceilings() -> Ceilings:
    """Copies of 1 GiB and of 16 MiB, a bf16 product of 8192 cubed, an empty launch."""
    large, small = (torch.empty(size, dtype=torch.int8, device="cuda") for size in (1 << 30, 16 << 20))
    a, one = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda"), torch.zeros(1, device="cuda")
    calls: Sequence[Callable[[], Any]] = (large.clone, small.clone, lambda: a @ a, one.zero_)
    large_us, small_us, product_us, launch_us = (
        statistics.median([_events(call, None) for _ in range(WARMUP + ROUNDS)][WARMUP:]) for call in calls
    )
    return Ceilings(2e6 * large.numel() / large_us, 2e6 * small.numel() / small_us, 2e6 * 8192**3 / product_us, launch_us)


def floor_us(contest: Contest, ceilings: Ceilings) -> float:
    """The least time this GPU needs, by its measured ceilings."""
    return 1e6 * max(contest.num_bytes / ceilings.copy_bytes_s, contest.num_flop / ceilings.tensor_flop_s)
