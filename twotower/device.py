"""Which device computes, and in which dtype weights lie there: the only place that decides it.

A command calls `choose` once, with what `--device` says, and hands the Device down. Work on a GPU is queued on the current
stream of the thread that asks for it. One thread at a time asks for it (the engine's, the nightly job's, the training loop's), so
all work is done in the order in which it is asked for. Copies that shall run beside it go through `Device.copy_stream`.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from twotower.device_option import Wanted
from twotower.errors import EnvironmentProblem
from twotower.progress import say

Value = TypeVar("Value")

CPU = torch.device("cpu")
LEAST_CAPABILITY = (8, 0)  # of NVIDIA: the kernels multiply in bfloat16 and copy asynchronously, which older GPUs cannot
RESERVED_BYTES = 512 << 20  # for results in between, the allocator's gaps and the kernels themselves
# Files of a driver. They say whether a GPU may be there without a call to CUDA, which would start its context.
_DRIVER_FILES = ("nvidiactl", "nvidia0", "nvhost-gpu", "dxg", "kfd")


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors lie, and the dtype of weights and cached states there. Whatever the dtype, sums are made in float32."""

    torch_device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    is_auto: bool = False  # `--device auto` took it, so the CPU may replace it

    @property
    def is_gpu(self) -> bool:
        """Whether work is queued, and memory must be copied there and back."""
        return self.torch_device.type == "cuda"

    def copy_stream(self) -> "torch.cuda.Stream | None":
        """A new stream for copies that run beside the work; None on the CPU, where a copy is made at once."""
        return torch.cuda.Stream(self.torch_device) if self.is_gpu else None  # type: ignore[no-untyped-call]


ON_CPU = Device()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The bytes that a command keeps on the device."""

    weights: int = 0
    pages: int = 0  # of the histories that the model has read
    vectors: int = 0  # of the items
    index: int = 0
    batch: int = 0  # what one batch takes beside them

    @property
    def total(self) -> int:
        """All of them, and what is kept free."""
        return RESERVED_BYTES + self.weights + self.pages + self.vectors + self.index + self.batch

    def __str__(self) -> str:
        parts = {field.name: getattr(self, field.name) for field in fields(self)} | {"kept free": RESERVED_BYTES}
        return ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size)


def choose(wanted: Wanted, gpu_dtype: torch.dtype = torch.float32, index: int = 0) -> Device:
    """The device that `--device` asks for; on a GPU with weights in `gpu_dtype`. For `auto`, says which it took and why.

    EnvironmentProblem for `cuda` without a GPU that torch and the kernels can use. `index` counts the GPUs of this machine.
    """
    if wanted == "cpu":
        return ON_CPU
    if problem := why_no_gpu(index):
        if wanted == "cuda":
            raise EnvironmentProblem(
                f"--device cuda cannot be had: {problem}. Use --device cpu, or auto, which then takes the CPU."
            )
        say(f"device: cpu, because {problem}")
        return ON_CPU
    device = Device(torch.device("cuda", index), gpu_dtype, is_auto=wanted == "auto")
    if device.is_auto:
        properties = torch.cuda.get_device_properties(index)
        say(f"device: {device.torch_device}, {properties.name} with {_gib(properties.total_memory)}")
    return device


def with_room(device: Device, needs: Needs) -> Device:
    """The device, if it has room for `needs` now. Else the CPU if `auto` took the device, which is said.

    EnvironmentProblem if `cuda` was asked for: it names the bytes of each part.
    """
    if not device.is_gpu:
        return device
    free, _ = torch.cuda.mem_get_info(device.torch_device)
    free += torch.cuda.memory_reserved(device.torch_device) - torch.cuda.memory_allocated(device.torch_device)
    if needs.total <= free:
        return device
    problem = f"{device.torch_device} has {_gib(free)} free, and {_gib(needs.total)} are needed ({needs})"
    if device.is_auto:
        say(f"device: cpu, because {problem}")
        return ON_CPU
    raise EnvironmentProblem(f"--device cuda cannot be had: {problem}. Free memory on it, or use --device cpu.")


def on(torch_device: torch.device, value: Value) -> Value:
    """A copy with every tensor on a device, including those inside dataclasses and tuples; what lies there is not copied."""
    if isinstance(value, Tensor):
        return value.to(torch_device)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(on(torch_device, part) for part in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: on(torch_device, getattr(value, field.name)) for field in fields(value)})
    return value


def device_of_weights(module: nn.Module) -> torch.device:
    """The device that a module's weights lie on; the CPU for a module without weights."""
    return next((parameter.device for parameter in module.parameters()), CPU)


def bytes_of_weights(*modules: nn.Module) -> int:
    """The bytes of all weights of some modules."""
    return sum(parameter.nbytes for module in modules for parameter in module.parameters())


def why_no_gpu(index: int = 0) -> str:
    """Why this process cannot compute on its GPU of that number, as a clause; empty if it can. Starts CUDA, but no context."""
    if not torch.version.cuda and not torch.version.hip:
        return f"torch {torch.__version__} is built for the CPU alone (docs/gpu.md says how to install a build for GPUs)"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return _told(str(error))
    if index >= torch.cuda.device_count():
        return f"GPU {index} is asked for, and torch finds {torch.cuda.device_count()}"
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if not torch.version.hip and capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, pair)) for pair in (capability, LEAST_CAPABILITY))
        return f"{name} has compute capability {found}, and the kernels need {least} (A100 and later)"
    if find_spec("triton") is None:
        return "Triton, which compiles the kernels, is not installed (pip install 'twotower[gpu]')"
    return ""


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether the driver of a GPU is loaded, as its files tell; asked before anything calls CUDA."""
    return any((devices / name).exists() for name in _DRIVER_FILES)


def _told(error: str) -> str:
    """What torch says when CUDA does not start, in one clause."""
    if "too old" in error:
        version = error.partition("found version ")[2].partition(")")[0]
        found = f" (it supports CUDA {int(version) // 1000}.{int(version) % 1000 // 10})" if version.isdecimal() else ""
        return f"the NVIDIA driver{found} is too old for torch {torch.__version__}: update the driver"
    if "no NVIDIA driver" in error:
        return "no NVIDIA driver is installed, so torch finds no GPU"
    if "No CUDA GPUs" in error or "no CUDA-capable device" in error:
        return "torch finds no GPU (CUDA_VISIBLE_DEVICES may hide it)"
    return f"CUDA does not start ({error.splitlines()[0]})"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
