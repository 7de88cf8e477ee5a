"""Chooses the implementation of an operation: Triton on a GPU where no gradient is needed, else torch.

Triton takes seconds to import and is not installed on machines without a GPU. It is imported only where it can run: beside the
driver of a GPU, in its interpreter (TRITON_INTERPRET=1), or in a program that has imported it already, to compile ahead of
time. The driver is known by its files, because a call to CUDA at import would start it in processes that never use it.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from twotower.device import may_have_gpu

_IS_INSTALLED = find_spec("triton") is not None
_WANTED = "triton" in sys.modules or (_IS_INSTALLED and (may_have_gpu() or os.environ.get("TRITON_INTERPRET") == "1"))
triton: Any = import_module("triton") if _WANTED else None
tl: Any = import_module("triton.language") if _WANTED else SimpleNamespace(constexpr=int)  # else kernels are never called


def jit(kernel: Callable[..., Any]) -> Any:
    """Decorate a kernel for Triton. Without Triton it stays a plain function."""
    return triton.jit(kernel) if triton else kernel


def use_triton(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors runs in Triton."""
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return triton is not None and not needs_gradient and all(tensor.is_cuda for tensor in tensors)
