"""A static roofline model of kernels on an H100, from the PTX of their hot loops. It is a model, not a measurement.

It leaves out integer arithmetic and selects, bank conflicts, how well warps hide each other's latency, and clocks under load.
So it says which time a kernel could reach at the shares of the peaks below, and what limits it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REGISTERS, SHARED_BYTES, THREADS, MOST_PROGRAMS = 65_536, 227 << 10, 2048, 32  # of one multiprocessor
REGISTER_GRAIN, SHARED_RESERVED = 256, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The peak rates of a GPU, and the shares of them that good kernels reach."""

    multiprocessors: int = 132
    clock_hz: float = 1.755e9
    memory_bytes_s: float = 3.35e12
    cache_bytes_s: float = 5.5e12  # L2, measured by others on this GPU
    tensor_flop_s: float = 989e12  # bf16 and fp16, dense, fp32 sums
    exponentials_clock: int = 16  # of one multiprocessor
    vector_flop_clock: int = 256  # of one multiprocessor; a fused multiply-add counts as two
    memory_share: float = 0.9
    tensor_share: float = 0.7
    launch_s: float = 2e-6  # of a kernel that takes no longer than its launch
    # The same for an empty kernel inside a graph that is replayed, on an H100, as others quote Spector et al. 2025
    # (https://hazyresearch.stanford.edu/blog/2025-05-27-no-bubbles).
    graph_launch_s: float = 1.3e-6


H100 = Machine()


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds that one multiprocessor needs for one iteration of one program's loop, by kind of work."""

    tensor_s: float
    exponential_s: float
    vector_s: float
    memory_s: float  # from the cache, because programs that read the same rows share them
    programs: int  # that fit on a multiprocessor
    bytes_in_flight: float  # of a multiprocessor

    @property
    def seconds(self) -> float:
        """Several programs overlap different kinds of work. A single program waits for each product before it continues."""
        compute = (self.tensor_s, self.exponential_s, self.vector_s)
        return max(max(compute) if self.programs > 1 else sum(compute), self.memory_s)

    @property
    def bound(self) -> str:
        """The kind of work that takes longest."""
        names = {
            "tensor": self.tensor_s,
            "exponentials": self.exponential_s,
            "arithmetic": self.vector_s,
            "memory": self.memory_s,
        }
        return max(names, key=names.__getitem__)


def programs_per_multiprocessor(kernel: Mapping[str, Any]) -> int:
    """How many programs fit on a multiprocessor, by registers, shared memory and threads."""
    num_warps: int = kernel["num_warps"]
    warp_registers = -(-kernel["registers"] * 32 // REGISTER_GRAIN) * REGISTER_GRAIN
    by_registers: int = REGISTERS // (warp_registers * num_warps)
    by_shared: int = SHARED_BYTES // (kernel["shared_bytes"] + SHARED_RESERVED)
    return min(by_registers, by_shared, THREADS // (32 * num_warps), MOST_PROGRAMS)


def turn(kernel: Mapping[str, Any], machine: Machine = H100) -> Turn:
    """The time of one iteration, from the recorded resources and loop of a kernel."""
    loop, programs = kernel["loop"], programs_per_multiprocessor(kernel)
    of_one = 1 / machine.multiprocessors
    return Turn(
        tensor_s=loop["tensor_flop"] / (machine.tensor_share * machine.tensor_flop_s * of_one),
        exponential_s=loop["exponentials"] / (machine.exponentials_clock * machine.clock_hz),
        vector_s=loop["vector_flop"] / (machine.vector_flop_clock * machine.clock_hz),
        memory_s=loop["load_bytes"] / (machine.cache_bytes_s * of_one),
        programs=programs,
        bytes_in_flight=programs * loop["load_bytes"] * max(kernel["num_stages"] - 1, 1),
    )


def streamed_s(num_bytes: float, machine: Machine = H100) -> float:
    """Seconds to read so many bytes from memory."""
    return num_bytes / (machine.memory_share * machine.memory_bytes_s)


def looped_s(kernel: Mapping[str, Any], turns: float, machine: Machine = H100) -> float:
    """Seconds of so many iterations, spread over all multiprocessors."""
    return turns * turn(kernel, machine).seconds / machine.multiprocessors


def kernel_s(kernel: Mapping[str, Any], turns: float, machine: Machine = H100) -> float:
    """Seconds of a whole kernel of so many iterations: no fewer than its launch takes."""
    return max(looped_s(kernel, turns, machine), machine.launch_s)


def search_s(
    kernel: Mapping[str, Any],
    num_rows: int,
    rows_per_turn: int,
    beside_bytes: float,
    num_launches: int,
    launch_s: float = H100.launch_s,
) -> float:
    """Seconds of a search for one query: the pass over all rows, other reads and writes, and the launches after it."""
    pass_s = streamed_s(num_rows / rows_per_turn * kernel["loop"]["load_bytes"] + beside_bytes)
    return max(pass_s, looped_s(kernel, num_rows / rows_per_turn)) + num_launches * launch_s
