"""Which implementation of an op runs: Triton's on a GPU where no gradient is needed, else torch's.

Triton takes seconds to import and is not installed where there is no GPU. It is imported only where it can run: on a GPU, in
its interpreter (TRITON_INTERPRET=1), or beside a program that has imported it already, to compile ahead of time.
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
    """A kernel as Triton compiles it; the plain function where there is no Triton."""
    return triton.jit(kernel) if triton else kernel


def use_triton(*tensors: Tensor) -> bool:
    """Whether an op of these tensors runs its Triton implementation."""
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return triton is not None and not needs_gradient and all(tensor.is_cuda for tensor in tensors)
