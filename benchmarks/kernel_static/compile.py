"""Compiles the kernels that the launchers launch, for one target, on a machine without a GPU.

`python -m benchmarks.kernel_static.compile sm_90`

A stand-in for Triton's driver names the target, and every launch compiles the kernel without running it. So kernels are
compiled for the arguments that the host code passes, with their alignment, and with the configuration that ships. There is one
process for each target, because Triton caches by device. Prints a JSON object: resources by "case/kernel".
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks.kernel_static.assembly import hot_loop, loop_work, number, sass_spills
from benchmarks.kernel_static.cases import CASES
from twotower.kernels.configurations import TARGETS, Target

LISTINGS = Path("build/bench/kernels")
LONG_ROW = 20_000  # for longer rows torch.topk uses many blocks: two kernels for each of four digits, and five more
_GPUS: dict[Target, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of a compiled kernel. `spills` are instructions (NVIDIA) or registers (AMD), `lines` those of its assembly."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    spills: int
    matrix: str
    wide_share: float
    narrow_loads: int
    lines: int
    num_warps: int
    num_stages: int


class _NoDevice:
    """A stand-in for Triton's driver, to compile for a GPU that is not there."""

    def __init__(self, target: Target) -> None:
        self.target = GPUTarget(*_GPUS[target])

    def get_current_target(self) -> Any:
        """The target to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """There is one."""
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002 - Triton's signature
        """There is one."""
        return 0


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch that was compiled but not run: the compiled kernel and its constants."""

    kernel: str
    program: Any
    constants: dict[str, int]


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts launches from the first kernel on: kernels, and operations of torch that are not views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[Launch] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if "empty" in function.__name__:
            return result.zero_()  # zeros, because no kernel runs and writes; so the decisions of the host code are repeatable
        if self.made and not function.is_view:
            self.count += _kernels_of(function.__name__, args)
        return result


def _kernels_of(name: str, args: Any) -> int:
    """How many kernels an operation of torch launches on a GPU. Operations other than top-k count as one."""
    if not name.startswith("topk"):
        return 1
    return 13 if args[0].shape[-1] >= LONG_ROW else 2


@contextmanager
def compiling(target: Target) -> Iterator[_Launches]:
    """Compile launches without running them. Yields the record of launches."""
    launches, run = _Launches(), JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:  # noqa: ARG001 - Triton's signature
        program = run(kernel, *args, grid=grid, warmup=True, **kwargs)
        constants = {name: value for name, value in kwargs.items() if isinstance(value, int)}
        launches.made.append(Launch(kernel.fn.__name__, program, constants))
        launches.count += 1
        return program

    triton.runtime.driver.set_active(_NoDevice(target))
    with patch.object(JITFunction, "run", compile_only), launches:
        yield launches


def compiled(cases: dict[str, Callable[[], object]], target: Target) -> dict[str, dict[str, Any]]:
    """Resources of every kernel that the cases launch, by case and kernel; on sm_90 also the work of a loop iteration."""
    result: dict[str, dict[str, Any]] = {}
    for case, call in cases.items():
        with compiling(target) as launches:
            call()
        last = {launch.kernel: launch for launch in launches.made}  # the last launch of each kernel counts
        for launch in last.values():
            key, program = f"{case}/{launch.kernel}", launch.program
            result[key] = asdict(resources(program, LISTINGS / target / re.sub(r"\W+", "_", key)))
            result[key] |= {"constants": launch.constants, "launches": launches.count}
            if target == "sm_90":
                result[key]["loop"] = asdict(loop_work(program.asm["ptx"], program.metadata.num_warps))
    return result


def resources(program: Any, listing: Path) -> Resources:
    """Read the resources from the assembly, which is kept beside the reports."""
    listing.parent.mkdir(parents=True, exist_ok=True)
    text, facts = _amd(program) if "amdgcn" in program.asm else _nvidia(program)
    listing.with_suffix(".txt").write_text(text)
    loop = hot_loop(text, "amdgcn" if "amdgcn" in program.asm else "sass")
    return Resources(
        **facts,
        shared_bytes=program.metadata.shared,
        matrix=loop.matrix,
        wide_share=round(loop.wide_share, 4),
        narrow_loads=loop.narrow_loads,
        lines=text.count("\n"),
        num_warps=program.metadata.num_warps,
        num_stages=program.metadata.num_stages,
    )


def _nvidia(program: Any) -> tuple[str, dict[str, int]]:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    facts = {"registers": number(usage, "REG:"), "stack_bytes": number(usage, "STACK:"), "spills": sass_spills(sass)}
    return sass, facts


def _amd(program: Any) -> tuple[str, dict[str, int]]:
    text = program.asm["amdgcn"]
    fields = {"registers": "vgpr_count", "stack_bytes": "private_segment_fixed_size", "spills": "vgpr_spill_count"}
    return text, {fact: number(text, rf"\.{field}:") for fact, field in fields.items()}


def main(argv: Sequence[str]) -> int:
    """Compile all cases for the target that the command line names."""
    (name,) = argv
    target = next(target for target in TARGETS if target == name)
    json.dump(compiled(CASES, target), sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
