"""A static roofline of kernels on an H100, from what their PTX does in a turn of the hot loop. Not a measurement: a model.

What it leaves out: integer arithmetic and selects, bank conflicts, how well warps hide each other's waiting, clocks under load.
So it says what a kernel could reach at the shares of the peaks below, and what bounds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REGISTERS, SHARED_BYTES, THREADS, MOST_PROGRAMS = 65_536, 227 << 10, 2048, 32  # of one multiprocessor
REGISTER_GRAIN, SHARED_RESERVED = 256, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Peaks of a GPU, and the shares of them that good kernels are known to reach."""

    multiprocessors: int = 132
    clock_hz: float = 1.755e9
    memory_bytes_s: float = 3.35e12
    cache_bytes_s: float = 5.5e12  # L2, measured by others on this GPU
    tensor_flop_s: float = 989e12  # bf16 and fp16, dense, fp32 sums
    exponentials_clock: int = 16  # of one multiprocessor
    vector_flop_clock: int = 256  # of one multiprocessor, a fused multiply-add being two
    memory_share: float = 0.9
    tensor_share: float = 0.7
    launch_s: float = 2e-6  # of a kernel too small to take longer than its start


H100 = Machine()


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds that one multiprocessor needs for one turn of one program's loop, by what it needs them for."""

    tensor_s: float
    exponential_s: float
    vector_s: float
    memory_s: float  # from the cache: programs that read the same rows find them there
    programs: int  # that fit on a multiprocessor
    bytes_in_flight: float  # of a multiprocessor

    @property
    def seconds(self) -> float:
        """Programs beside each other overlap what they do; one alone waits for each product before it goes on."""
        compute = (self.tensor_s, self.exponential_s, self.vector_s)
        return max(max(compute) if self.programs > 1 else sum(compute), self.memory_s)

    @property
    def bound(self) -> str:
        """What takes longest."""
        names = {
            "tensor": self.tensor_s,
            "exponentials": self.exponential_s,
            "arithmetic": self.vector_s,
            "memory": self.memory_s,
        }
        return max(names, key=names.__getitem__)


def programs_per_multiprocessor(kernel: Mapping[str, Any]) -> int:
    """How many fit, by registers, shared memory and threads."""
    num_warps: int = kernel["num_warps"]
    warp_registers = -(-kernel["registers"] * 32 // REGISTER_GRAIN) * REGISTER_GRAIN
    by_registers: int = REGISTERS // (warp_registers * num_warps)
    by_shared: int = SHARED_BYTES // (kernel["shared_bytes"] + SHARED_RESERVED)
    return min(by_registers, by_shared, THREADS // (32 * num_warps), MOST_PROGRAMS)


def turn(kernel: Mapping[str, Any], machine: Machine = H100) -> Turn:
    """Of a kernel as recorded: its resources and its loop."""
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
    """Seconds to bring so many bytes from memory once."""
    return num_bytes / (machine.memory_share * machine.memory_bytes_s)


def looped_s(kernel: Mapping[str, Any], turns: float, machine: Machine = H100) -> float:
    """Seconds of so many turns, spread over all multiprocessors."""
    return turns * turn(kernel, machine).seconds / machine.multiprocessors


def search_s(kernel: Mapping[str, Any], num_rows: int, rows_per_turn: int, beside_bytes: float, num_launches: int) -> float:
    """Seconds of a search for one query: the pass over all rows, what else is read and written, and the launches after it."""
    pass_s = streamed_s(num_rows / rows_per_turn * kernel["loop"]["load_bytes"] + beside_bytes)
    return max(pass_s, looped_s(kernel, num_rows / rows_per_turn)) + num_launches * H100.launch_s
