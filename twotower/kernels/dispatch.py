"""Chooses the implementation of an operation: Triton on a GPU where no gradient is needed, else torch.

Triton takes seconds to import and is not installed on machines without a GPU. It is imported only where it can run: on a GPU,
in its interpreter (TRITON_INTERPRET=1), or in a program that has imported it already, to compile ahead of time.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_WANTED = "triton" in sys.modules or torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
triton: Any = import_module("triton") if _WANTED else None
tl: Any = import_module("triton.language") if _WANTED else SimpleNamespace(constexpr=int)  # else kernels are never called


def jit(kernel: Callable[..., Any]) -> Any:
    """Decorate a kernel for Triton. Without Triton it stays a plain function."""
    return triton.jit(kernel) if triton else kernel


def use_triton(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors runs in Triton."""
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return triton is not None and not needs_gradient and all(tensor.is_cuda for tensor in tensors)
