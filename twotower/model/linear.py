"""Linear layers of many rows on a CPU, without gradients: by oneDNN on processors of AMD with AVX-512, where it is twice as fast.

torch multiplies float32 by MKL, which uses AVX2 there. Both come with torch, and both are exact to rounding: they add in another
order. `ATEN_CPU_CAPABILITY=avx2` keeps MKL.

N: rows, F: width of a row, D: width of the result
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.kernels.dispatch import needs_gradient

FEW = 8  # rows; fewer are multiplied faster by MKL
_PROCESSOR = Path("/proc/cpuinfo")


def linear(x_NF: Tensor, layer: nn.Linear) -> Tensor:
    """What the layer makes of the rows, [N, D]."""
    return _by_onednn(x_NF, layer, "none") if _is_for_onednn(x_NF, layer) else layer(x_NF)


def linear_gelu(x_NF: Tensor, layer: nn.Linear) -> Tensor:
    """GELU (Hendrycks & Gimpel 2016) of what the layer makes of the rows, [N, D]."""
    return _by_onednn(x_NF, layer, "gelu") if _is_for_onednn(x_NF, layer) else functional.gelu(layer(x_NF))


def _is_for_onednn(x_NF: Tensor, layer: nn.Linear) -> bool:
    is_plain = x_NF.device.type == "cpu" and x_NF.dtype == layer.weight.dtype == torch.float32 and len(x_NF) >= FEW
    return is_plain and onednn_is_faster() and not needs_gradient(x_NF, layer.weight)


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor whose widest vectors MKL does not use."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    is_amd = _PROCESSOR.exists() and "AuthenticAMD" in _PROCESSOR.read_text()
    return has_both and is_amd and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _by_onednn(x_NF: Tensor, layer: nn.Linear, activation: str) -> Tensor:
    """The operation that torch's own compiler calls for linear layers; the exact GELU is its algorithm "none"."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x_NF, layer.weight, layer.bias, activation, [], "none")
    return product
