"""Which numbers the layers multiply on a CPU: float32, or bfloat16 where that is measured to be much faster."""

import statistics
import time
from typing import Literal

import numpy as np
import torch

from service.model.packed_layers import PackedLayers
from service.states.memory import ArrayMemory
from twotower.data.features import FeatureSpec, FieldSpec, Floats
from twotower.data.window import WINDOW
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer

DtypeName = Literal["fp32", "bf16"]
WantedDtype = Literal["auto", "fp32", "bf16"]
DTYPES: dict[DtypeName, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIN_SPEEDUP = 1.5  # of a whole reading; for less it is not worth that one result in some thousands is another
_PAIRS, _WARM = 9, 3


def dtype_on_cpu(wanted: WantedDtype) -> torch.dtype:
    """The dtype that is asked for; for `auto`, bfloat16 if reading with it is faster by `MIN_SPEEDUP` on this machine."""
    if wanted != "auto":
        return DTYPES[wanted]
    return torch.bfloat16 if has_bf16() and measured_speedup() >= MIN_SPEEDUP else torch.float32


def name_of(dtype: torch.dtype) -> DtypeName:
    """The name of a dtype in settings, messages and answers."""
    return next(name for name, each in DTYPES.items() if each == dtype)


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself, and torch is not held to an older instruction set."""
    can = torch.cpu.get_capabilities()
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(can.get("avx512_bf16") or can.get("amx_bf16"))


@torch.inference_mode()
def measured_speedup() -> float:
    """How many times faster a history of 256 events is read with bfloat16, by a model of the usual size: the median of pairs."""
    spec = FeatureSpec(fields=(FieldSpec(name="event_type", kind="categorical"),))
    config = ModelConfig(item_spec=spec, context_spec=spec)
    with torch.random.fork_rng():
        model = Contextualizer(config)
    x_TD = np.random.default_rng(0).standard_normal((WINDOW, config.width)).astype(np.float32)
    memory = ArrayMemory(config)
    memory.make_room(WINDOW)
    in_fp32, in_bf16 = (PackedLayers(model, config, dtype) for dtype in DTYPES.values())

    def ratio() -> float:
        return _seconds(in_fp32, memory, x_TD) / _seconds(in_bf16, memory, x_TD)

    ratios = [ratio() for _ in range(_WARM)]
    if max(ratios) > 1:  # with instructions that are switched off, bfloat16 takes a hundred times as long: that is enough of it
        ratios = [ratio() for _ in range(_PAIRS)]
    return statistics.median(ratios)


def _seconds(layers: PackedLayers, memory: ArrayMemory, x_TD: Floats) -> float:
    started = time.thread_time()  # other work on the machine does not count
    layers.read([memory], [len(x_TD)], x_TD)
    return time.thread_time() - started
